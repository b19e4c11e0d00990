//! The HTTPS server of an energy manager or of a device that is paired, and the sessions of a device.

use std::sync::Arc;

use s2_kit::connect::client::Session;
use s2_kit::connect::proto::{AccessToken, ConnectionDetails, NodeId, Role, TokenStore};
use s2_kit::connect::server::{
    Endpoint, LocalSubnets, Memory, PairingService, SessionService, lan_router, serve, websocket_router,
};
use s2_kit::connect::tls::{Fingerprint, SelfSignedEndpoint, TlsClient, TlsPolicy};
use s2_kit::io::WebSocket;
use s2_kit::rustls::pki_types::{CertificateDer, ServerName};
use s2_kit::tokio::net::{TcpListener, TcpStream};
use s2_kit::types::{Timestamp, WireProfile};
use serde_json::json;

use crate::{Result, Settings, pairing, talk, tell};

/// A LAN endpoint of s2-kit on a free port of this machine.
pub struct Server {
    pub store: Arc<Memory>,
    pub port: u16,
    identity: SelfSignedEndpoint,
}

impl Server {
    pub async fn start(settings: &Settings) -> Result<Self> {
        let identity = SelfSignedEndpoint::generate(["localhost".into()])?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = Self { store: Memory::new(), port: listener.local_addr()?.port(), identity };
        server.store.add_node(settings.node()?, None);
        let mut pairing = PairingService::lan(server.store.clone(), settings.endpoint(), server.identity.leaf);
        if settings.role() == Role::Cem {
            pairing = pairing.with_connection_details(server.connection_details(settings)?);
        }
        let sessions = SessionService::new(server.store.clone(), format!("wss://localhost:{}/s2", server.port));
        let endpoint = Endpoint::new(Arc::new(pairing), Arc::new(sessions));
        let websocket = websocket_router(endpoint.clone(), "/s2", |peer, socket| async move {
            tell("session", json!({ "peer": peer.to_string() }));
            // The route is not told which version was agreed on.
            talk::as_manager(socket, WireProfile::V1_0_0).await;
        });
        let routes = lan_router(endpoint, LocalSubnets::detect()?).merge(websocket);
        let tls = server.identity.server_config()?;
        tokio::spawn(async move {
            if let Err(error) = serve(listener, tls, routes, std::future::pending()).await {
                tell("failed", json!({ "error": error.to_string() }));
            }
        });
        Ok(server)
    }

    /// What a device is told where this is the energy manager. `session_path` is what follows the port in the URL.
    pub fn connection_details(&self, settings: &Settings) -> Result<ConnectionDetails> {
        let path = settings.text("session_path").unwrap_or("/");
        let fingerprint = match settings.text("fingerprint") {
            Some("leaf") => self.identity.leaf,
            _ => Fingerprint::of(&self.identity.ca),
        };
        Ok(ConnectionDetails {
            initiate_session_url: format!("https://localhost:{}{path}", self.port),
            access_token: pairing::access_token()?,
            certificate_fingerprint: [("SHA256".to_string(), fingerprint.to_hex())].into_iter().collect(),
        })
    }
}

/// What a device needs for sessions.
pub struct Access {
    pub local: NodeId,
    pub remote: NodeId,
    pub url: String,
    pub token: AccessToken,
    pub policy: TlsPolicy,
}

/// Have as many sessions as the settings say, each until the other side ends it.
pub async fn have_sessions(settings: &Settings, access: Access) -> Result<()> {
    let url = format!("{}{}", access.url, settings.text("session_suffix").unwrap_or(""));
    let mut tokens = TokenStore::new(access.token);
    // A `Session` whose request failed cannot be used again, so each request has a new one with the tokens of the last.
    let begin = |tokens| Session::new(&url, &access.policy, access.local, access.remote, tokens);
    for _ in 0..settings.sessions() {
        let credentials = loop {
            let mut session = begin(tokens)?;
            let answer = session.initiate(Timestamp::now()).await;
            tokens = session.tokens().clone();
            match answer {
                Ok(credentials) => break credentials,
                // The energy manager may not be ready for it yet, which is no reason to give up.
                Err(error) if error.to_string().contains("\"Other\"") => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let token = Some(credentials.websocket_token.as_str());
        let socket = WebSocket::connect_with_policy(&credentials.websocket_url, token, &access.policy).await?;
        let profile = credentials.profile.ok_or("a version that s2-kit does not speak")?;
        tell("session", json!({ "peer": access.remote.to_string(), "version": profile.to_string() }));
        talk::as_device(socket, profile).await;
    }
    if settings.text("then") == Some("unpair") {
        begin(tokens)?.unpair().await?;
        tell("unpaired", json!({}));
    }
    Ok(())
}

/// The root of the chain that a server shows; not authenticated.
pub async fn root_of(url: &str) -> Result<CertificateDer<'static>> {
    let place = url.strip_prefix("https://").and_then(|rest| rest.split('/').next()).ok_or("no URL")?;
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host).to_string();
    let client = TlsClient::new(&TlsPolicy::LanPairingOnly)?;
    let stream = TcpStream::connect(place).await?;
    let connector = tokio_rustls::TlsConnector::from(client.config());
    connector.connect(ServerName::try_from(host)?, stream).await?;
    Ok(client.captured().ok_or("no certificate")?.root)
}

/// 32 random bytes.
pub fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let provider = s2_kit::connect::tls::default_provider()?;
    provider.secure_random.fill(&mut bytes).map_err(|_| "no random bytes")?;
    Ok(bytes)
}

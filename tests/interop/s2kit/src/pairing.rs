//! Pairing as client and as server.

use std::time::Duration;

use s2_kit::connect::client::Pairing;
use s2_kit::connect::proto::{AccessToken, ConnectionDetails, Role, TokenStore};
use s2_kit::connect::server::{PairedNode, Store};
use s2_kit::connect::tls::TlsPolicy;
use s2_kit::types::Timestamp;
use serde_json::json;

use crate::communication::{self, Access, Server};
use crate::{Result, Settings, tell};

/// Pair as HTTPS client. A device gets access to the energy manager; an energy manager waits for the device.
pub async fn ask(settings: &Settings, server: &Server) -> Result<Option<Access>> {
    let url = settings.text("url").ok_or("no url")?;
    let details = server.connection_details(settings)?;
    let paired = Pairing::lan(url, settings.node()?, settings.endpoint())?
        .run_with_entropy(settings.code()?, Timestamp::now(), &communication::random()?, Some(details.clone()))
        .await?;
    let pairing = &paired.pairing;
    tell(
        "paired",
        json!({
            "peer": pairing.remote.id.to_string(),
            "communication_server": format!("{:?}", pairing.communication_server),
            "initiate_session_url": pairing.details.initiate_session_url,
        }),
    );
    if settings.role() == Role::Cem {
        server.store.pair(PairedNode {
            local: pairing.local,
            remote: pairing.remote.clone(),
            tokens: TokenStore::new(details.access_token.clone()),
            details: Some(details),
        });
        return Ok(None);
    }
    Ok(Some(Access {
        local: pairing.local,
        remote: pairing.remote.id,
        url: pairing.details.initiate_session_url.clone(),
        token: pairing.details.access_token.clone(),
        policy: paired.policy(),
    }))
}

/// Be paired as HTTPS server: wait until a client has finished.
pub async fn be_asked(settings: &Settings, server: &Server) -> Result<Option<Access>> {
    let local = settings.node()?.id;
    let code = settings.code()?;
    server.store.open_for_pairing(local, code.token);
    tell("ready", json!({ "port": server.port }));
    let remote = loop {
        if let Some(remote) = server.store.paired_with(local).first() {
            break *remote;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let paired = server.store.paired(remote).ok_or("the pairing has gone")?;
    let details = paired.details.ok_or("a pairing without connection details")?;
    tell(
        "paired",
        json!({
            "peer": remote.to_string(),
            "initiate_session_url": details.initiate_session_url,
            "fingerprint": details.certificate_fingerprint,
        }),
    );
    if settings.role() == Role::Cem {
        return Ok(None);
    }
    let policy = pinned(&details).await?;
    Ok(Some(Access { local, remote, url: details.initiate_session_url, token: details.access_token, policy }))
}

/// The certificate that a fingerprint stands for, which s2-kit has no policy for: fetch the chain and compare.
async fn pinned(details: &ConnectionDetails) -> Result<TlsPolicy> {
    let root = communication::root_of(&details.initiate_session_url).await?;
    let wanted = details.certificate_fingerprint.get("SHA256").ok_or("no SHA256 fingerprint")?;
    let wanted = s2_kit::connect::tls::Fingerprint::parse(wanted)?;
    if !s2_kit::connect::tls::Fingerprint::of(&root).matches(&wanted) {
        return Err("another certificate authority than the fingerprint's".into());
    }
    Ok(TlsPolicy::PinnedCa(root))
}

/// A fresh access token.
pub fn access_token() -> Result<AccessToken> {
    Ok(AccessToken::from_entropy(&communication::random()?)?)
}

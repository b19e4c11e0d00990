//! A device (RM) or energy manager (CEM) made with s2-kit: pairs as client or server, then has sessions.
//!
//! The first line of standard input holds the settings as JSON, because they have a secret; the program ends with its
//! input. Standard output has one JSON object a line: `ready`, `paired`, `session`, `received`, `acknowledged`,
//! `refused`, `closed`, `failed`, `done`.

mod communication;
mod pairing;
mod talk;

use std::error::Error;

use s2_kit::connect::proto::{Deployment, EndpointDescription, NodeDescription, NodeId, PairingCode, Role, TokenKind};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Write one event.
pub fn tell(event: &str, mut more: Value) {
    more["event"] = event.into();
    println!("{more}");
}

/// What the first line says.
pub struct Settings {
    values: Value,
}

impl Settings {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values[name].as_str()
    }

    pub fn role(&self) -> Role {
        if self.text("role") == Some("CEM") { Role::Cem } else { Role::Rm }
    }

    pub fn code(&self) -> Result<PairingCode> {
        let code = self.text("code").ok_or("no code")?;
        Ok(PairingCode::parse(code, TokenKind::Dynamic)?)
    }

    pub fn node(&self) -> Result<NodeDescription> {
        Ok(NodeDescription {
            id: NodeId::parse(self.text("id").ok_or("no id")?)?,
            brand: "s2-kit".into(),
            logo_url: None,
            kind: if self.role() == Role::Cem { "Hub" } else { "Battery" }.into(),
            model_name: "Peer".into(),
            user_defined_name: None,
            role: self.role(),
        })
    }

    pub fn endpoint(&self) -> EndpointDescription {
        EndpointDescription { name: Some("s2-kit".into()), logo_url: None, deployment: Some(Deployment::Lan) }
    }

    /// How many sessions a device has before it is done.
    pub fn sessions(&self) -> u64 {
        self.values["sessions"].as_u64().unwrap_or(1)
    }
}

async fn act(settings: &Settings) -> Result<()> {
    let server = communication::Server::start(settings).await?;
    let paired = if settings.text("pairing") == Some("server") {
        pairing::be_asked(settings, &server).await?
    } else {
        pairing::ask(settings, &server).await?
    };
    if let Some(paired) = paired {
        communication::have_sessions(settings, paired).await?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line).await?;
    let settings = Settings { values: serde_json::from_str(&line)? };
    let acting = async {
        match act(&settings).await {
            Ok(()) => tell("done", json!({})),
            Err(error) => tell("failed", json!({ "error": error.to_string() })),
        }
        std::future::pending::<()>().await;
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = acting => {}
        end = input.read_to_end(&mut rest) => drop(end?),
    }
    Ok(())
}

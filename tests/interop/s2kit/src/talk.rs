//! What is said in a session: a battery with fill rate based control, and its manager.

use s2_kit::io::{Driver, TextTransport};
use s2_kit::prelude::{
    CemConfig, CemEvent, CemSession, ControlType, Id, InstructionStatus, Message, MessageKind, RmConfig, RmEvent,
    RmSession, Timestamp, WireProfile, frbc,
};
use s2_kit::session::MessageHandle;
use s2_kit::testing::{battery_details, battery_system};
use serde_json::{Value, json};

use crate::tell;

/// Be a battery until the session ends.
pub async fn as_device(socket: impl TextTransport, profile: WireProfile) {
    let mut session = RmSession::new(RmConfig::default().pre_negotiated(profile), battery_details());
    session.open(Timestamp::now());
    let ended = Driver::new(socket).run(&mut session, |event, session| device_hears(event, session)).await;
    tell("closed", json!({ "error": ended.err().map(|error| error.to_string()) }));
}

fn device_hears(event: RmEvent, session: &mut RmSession) {
    let now = Timestamp::now();
    match event {
        RmEvent::Ready { control_type } => {
            tell("received", json!({ "type": "SelectControlType", "control_type": format!("{control_type:?}") }));
            say(session.send(battery_system(now), now));
            say(session.send(frbc::StorageStatus::new(42.5), now));
            say(session.send(actuator_status("idle", None), now));
        }
        RmEvent::Instruction(told) => {
            tell("received", json!({ "type": told.kind.as_str() }));
            say(session.instruction_status(told.id, InstructionStatus::Accepted, now));
            say(session.instruction_status(told.id, InstructionStatus::Succeeded, now));
            if let Message::FrbcInstruction(instruction) = &told.message {
                say(session.send(actuator_status(instruction.operation_mode.as_str(), Some(now)), now));
            }
        }
        RmEvent::Acked(handle) => acknowledged(&handle),
        RmEvent::Nacked { handle, status, diagnostic, .. } => {
            refused("sent", handle.kind.as_str(), format!("{status:?}"), json!(diagnostic));
        }
        RmEvent::Refused { kind, status, report } => {
            let label = json!(report.diagnostic_label());
            refused("received", kind.map_or("?", MessageKind::as_str), format!("{status:?}"), label);
        }
        other => tell("other", json!({ "what": format!("{other:?}") })),
    }
}

fn actuator_status(mode: &str, since: Option<Timestamp>) -> frbc::ActuatorStatus {
    let id = |text| Id::parse(text).expect("an identifier of the battery");
    frbc::ActuatorStatus {
        message_id: Id::generate(),
        actuator_id: id("actuator1"),
        active_operation_mode_id: id(mode),
        operation_mode_factor: 0.5,
        previous_operation_mode_id: since.map(|_| id("idle")),
        transition_timestamp: since,
    }
}

/// Be the manager of a battery until the session ends.
pub async fn as_manager(socket: impl TextTransport, profile: WireProfile) {
    let mut session = CemSession::new(CemConfig::default().pre_negotiated(profile));
    session.open(Timestamp::now());
    let ended = Driver::new(socket).run(&mut session, |event, session| manager_hears(event, session)).await;
    tell("closed", json!({ "error": ended.err().map(|error| error.to_string()) }));
}

fn manager_hears(event: CemEvent, session: &mut CemSession) {
    let now = Timestamp::now();
    match event {
        CemEvent::ResourceDescribed(details) => {
            tell("received", json!({ "type": "ResourceManagerDetails", "id": details.resource_id.to_string() }));
            say(session.select_control_type(ControlType::FillRateBasedControl, now));
        }
        CemEvent::Description { kind, message } => {
            tell("received", json!({ "type": kind.as_str() }));
            if let Message::FrbcSystemDescription(system) = message {
                let actuator = &system.actuators[0];
                let instruction = frbc::Instruction {
                    message_id: Id::generate(),
                    id: Id::generate(),
                    actuator_id: actuator.id,
                    operation_mode: actuator.operation_modes[1].id,
                    operation_mode_factor: 0.5,
                    execution_time: now,
                    abnormal_condition: false,
                };
                say(session.instruct(instruction, now));
            }
        }
        CemEvent::Status { kind, .. } => tell("received", json!({ "type": kind.as_str() })),
        CemEvent::Measurement(_) => tell("received", json!({ "type": "PowerMeasurement" })),
        CemEvent::InstructionStatus(update) => {
            let status = format!("{:?}", update.status_type);
            tell("received", json!({ "type": "InstructionStatusUpdate", "status": status }));
        }
        CemEvent::Acked(handle) => acknowledged(&handle),
        CemEvent::Nacked { handle, status, diagnostic, .. } => {
            refused("sent", handle.kind.as_str(), format!("{status:?}"), json!(diagnostic));
        }
        CemEvent::Refused { kind, status, report } => {
            let label = json!(report.diagnostic_label());
            refused("received", kind.map_or("?", MessageKind::as_str), format!("{status:?}"), label);
        }
        other => tell("other", json!({ "what": format!("{other:?}") })),
    }
}

fn say<T, E: ToString>(sent: Result<T, E>) {
    if let Err(error) = sent {
        tell("refused", json!({ "direction": "own", "label": error.to_string() }));
    }
}

fn acknowledged(handle: &MessageHandle) {
    tell("acknowledged", json!({ "type": handle.kind.as_str() }));
}

fn refused(direction: &str, kind: &str, status: String, label: Value) {
    tell("refused", json!({ "direction": direction, "type": kind, "status": status, "label": label }));
}

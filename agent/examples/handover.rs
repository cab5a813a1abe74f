//! Handing over a file: one agent sends it as an attachment, the other has it whole, on its disk, under its name. Starts a node of its
//! own in a temporary folder, so one command shows it:
//!
//! `cargo run -p creto-agent --example handover`

// A node and agents of it, as in the documentation's examples.
mod node {
    include!("../doc/node.rs");
}

use std::error::Error;
use std::path::Path;

use creto_agent::attachment::{AttachmentLimits, Attachments, FileToSend, ReceivedFile, Taken};
use creto_agent::{Agent, AgentName, ReceiveError};

fn main() -> Result<(), Box<dyn Error>> {
    node::with_node(async |node| {
        let report = node.folder.join("report.csv");
        std::fs::write(&report, "city,alerts\nOslo,3\n".repeat(100_000))?;
        let (sender, receiver) = (node.connect("planner").await?, node.connect("reader-1").await?);
        let (upload, inbox) = (node.folder.join("report.upload"), node.folder.join("inbox"));
        let (sent, file) =
            tokio::join!(hand_over(&sender, receiver.name(), &report, &upload), take_over(&receiver, &inbox));
        sent?;
        let file = file?;
        let note = String::from_utf8_lossy(&file.note);
        println!("{} has {} with {} bytes from {}: {note}", receiver.name(), file.name, file.bytes, file.head.from);
        sender.close().await;
        receiver.close().await;
        Ok(())
    })
}

/// Sends a file. Run it again after a crash, and it goes on where it was: `resume` says how far it came.
pub(crate) async fn hand_over(from: &Agent, to: &AgentName, path: &Path, resume: &Path) -> Result<(), Box<dyn Error>> {
    let mut file = FileToSend::new(path);
    file.media_type = "text/csv".to_owned();
    file.note = "the alerts of this week".into();
    file.resume = Some(resume.to_owned());
    from.send_file(to, file, |progress| println!("{} of {} bytes durable", progress.durable_bytes, progress.bytes))
        .await?;
    Ok(())
}

/// Waits for a file. Whatever else comes meanwhile is printed.
pub(crate) async fn take_over(agent: &Agent, folder: &Path) -> Result<ReceivedFile, Box<dyn Error>> {
    let attachments = Attachments::open(folder, AttachmentLimits::default()).await?;
    let mut mailbox = agent.subscribe()?;
    loop {
        let delivery = mailbox.next().await.unwrap_or(Err(ReceiveError::Closed))?;
        match attachments.take(delivery).await? {
            Taken::File(file) => {
                file.head.ack(); // the file is ours: its sender may forget it
                return Ok(*file);
            }
            Taken::Message(message) => {
                println!("{}: {}", message.from, String::from_utf8_lossy(&message.payload));
                message.ack();
            }
            _ => {} // a part of it is on the disk, or has to wait
        }
    }
}

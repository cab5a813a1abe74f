//! Answers every request with its own payload, and prints whatever else comes. A request is acknowledged when its answer is
//! durable, so that a crash in between loses nothing.
//!
//! `cargo run -p creto-agent --example worker -- 127.0.0.1:7401 node.crt worker.keys`

use creto_agent::{Agent, AgentKeys, ConnectOptions, NodeCertificate};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [node, certificate, keys] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: worker NODE CERTIFICATE KEYS, such as 127.0.0.1:7401 node.crt worker.keys")?;
    let certificate = NodeCertificate::from_file(certificate)?;
    let options = ConnectOptions::new(node.parse()?, certificate, AgentKeys::load(keys)?);
    let agent = Agent::connect(options).await?;
    println!("{} waits for requests", agent.name());

    let mut mailbox = agent.subscribe()?;
    while let Some(delivery) = mailbox.next().await {
        let delivery = delivery?;
        println!("{} bytes from {}", delivery.payload.len(), delivery.from);
        match delivery.request() {
            Some(request) => drop(delivery.respond(request.payload).await?),
            None => delivery.ack(),
        }
    }
    Ok(())
}

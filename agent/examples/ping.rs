//! Sends one message and waits for the echo: how long a durable round trip takes.
//!
//! `cargo run -p creto-agent --example ping -- 127.0.0.1:7401 node.crt planner.keys acme/worker`

use std::time::Instant;

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, Kind, NodeCertificate, SendOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [node, certificate, keys, to] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(
        |_| "usage: ping NODE CERTIFICATE KEYS RECIPIENT, such as 127.0.0.1:7401 node.crt planner.keys acme/worker",
    )?;
    let certificate = NodeCertificate::from_file(certificate)?;
    let options = ConnectOptions::new(node.parse()?, certificate, AgentKeys::load(keys)?);
    let agent = Agent::connect(options).await?;
    let worker = AgentName::parse(&to)?;

    let began = Instant::now();
    let request = SendOptions { kind: Kind::Request, ..SendOptions::default() };
    let receipt = agent.send_with(&worker, "ping", request).await?;
    println!("durable after {:?}", began.elapsed());

    loop {
        let delivery = agent.receive().await?;
        delivery.ack();
        if delivery.correlation_id == Some(receipt.message_id) {
            println!("answered by {} after {:?}", delivery.from, began.elapsed());
            break;
        }
    }
    agent.close().await;
    Ok(())
}

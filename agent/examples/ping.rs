//! Asks once and waits for the answer: how long a durable round trip takes.
//!
//! `cargo run -p creto-agent --example ping -- 127.0.0.1:7401 node.crt planner.keys acme/worker`, with the example `worker` running

use std::time::{Duration, Instant};

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate};

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
    let answer = agent.request(&worker, "ping", Duration::from_secs(10)).await?;
    println!("answered by {} after {:?}", answer.from, began.elapsed());
    agent.close().await;
    Ok(())
}

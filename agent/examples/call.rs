//! Calls a tool of another agent and prints what it gives. `tools` is its other half.
//!
//! `cargo run -p creto-agent --example call -- 127.0.0.1:7401 node.crt planner.keys acme/worker word_count '{"text": "a b c"}'`

use std::time::Duration;

use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate, RequestError};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [node, certificate, keys, to, tool, arguments] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| {
            "usage: call NODE CERTIFICATE KEYS AGENT TOOL ARGUMENTS, such as 127.0.0.1:7401 node.crt planner.keys acme/worker word_count '{\"text\": \"a b c\"}'"
        })?;
    let certificate = NodeCertificate::from_file(certificate)?;
    let agent = Agent::connect(ConnectOptions::new(node.parse()?, certificate, AgentKeys::load(keys)?)).await?;
    let called = call(&agent, &AgentName::parse(&to)?, &tool, &serde_json::from_str(&arguments)?).await;
    agent.close().await;
    println!("{}", called?);
    Ok(())
}

/// One call: what the tool gives, or why it gives nothing.
pub(crate) async fn call(
    agent: &Agent,
    to: &AgentName,
    tool: &str,
    arguments: &Value,
) -> Result<Value, Box<dyn std::error::Error>> {
    let call = json!({ "tool": tool, "arguments": arguments }).to_string();
    match agent.request(to, call, Duration::from_secs(10)).await {
        Ok(answer) => Ok(serde_json::from_slice::<Value>(&answer.payload)?["result"].take()),
        Err(RequestError::Failed { message, .. }) => Err(format!("{tool} does not work: {message}").into()),
        // Perhaps nobody was there, perhaps the tool ran: only the application knows whether twice is harmless.
        Err(error) => Err(error.into()),
    }
}

//! An agent with tools for others: each request names one and its arguments in JSON, each answer is what the tool gives.
//! `call` is its other half.
//!
//! `cargo run -p creto-agent --example tools -- 127.0.0.1:7401 node.crt worker.keys`

use bytes::Bytes;
use creto_agent::{
    Agent, AgentKeys, ConnectOptions, Failure, IncomingRequest, NodeCertificate, ReceiveError, ServeOptions, Server,
};
use serde_json::{Value, json};

/// The request is no tool call.
const MALFORMED: u32 = 1;
/// There is no such tool.
const UNKNOWN_TOOL: u32 = 2;
/// The tool does not take these arguments.
const ARGUMENTS: u32 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [node, certificate, keys] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: tools NODE CERTIFICATE KEYS, such as 127.0.0.1:7401 node.crt worker.keys")?;
    let certificate = NodeCertificate::from_file(certificate)?;
    let agent = Agent::connect(ConnectOptions::new(node.parse()?, certificate, AgentKeys::load(keys)?)).await?;
    let mut server = serve_tools(&agent)?;
    println!("{} has tools: word_count, divide; Ctrl-C ends it", agent.name());
    tokio::select! {
        ended = server.ended() => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    // What was begun is answered; the rest stays in the mailbox for the next run.
    server.stop().await?;
    agent.close().await;
    Ok(())
}

/// Works on tool calls until it is stopped, eight at a time.
pub(crate) fn serve_tools(agent: &Agent) -> Result<Server, ReceiveError> {
    agent.serve(ServeOptions::default().concurrency(8), async |request: IncomingRequest| {
        let call: Value =
            serde_json::from_slice(&request.payload).map_err(|error| Failure::new(MALFORMED, error.to_string()))?;
        let result = run_tool(call["tool"].as_str().unwrap_or_default(), &call["arguments"])?;
        Ok(Bytes::from(json!({ "result": result }).to_string()))
    })
}

fn run_tool(tool: &str, arguments: &Value) -> Result<Value, Failure> {
    let refuse = |what: &str| Failure::new(ARGUMENTS, what);
    match tool {
        "word_count" => {
            let text = arguments["text"].as_str().ok_or_else(|| refuse("word_count takes a text"))?;
            Ok(text.split_whitespace().count().into())
        }
        "divide" => {
            let number = |name| arguments[name].as_f64().ok_or_else(|| refuse("divide takes two numbers, a and b"));
            match (number("a")?, number("b")?) {
                (_, 0.0) => Err(refuse("divide does not divide by zero")),
                (a, b) => Ok((a / b).into()),
            }
        }
        other => Err(Failure::new(UNKNOWN_TOOL, format!("there is no tool {other:?} here"))),
    }
}

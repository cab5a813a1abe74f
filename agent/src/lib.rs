//! creto-agent.

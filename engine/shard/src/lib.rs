//! creto-shard.

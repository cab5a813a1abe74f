//! Every limit of a policy and of what it is asked.

/// Bytes of the largest policy, and of the largest file of its tests.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Operators around one place of an expression. Whoever walks the tree recurses once for each.
pub const EXPRESSION_OPERATORS_MAX: usize = 128;
/// Brackets `[` and `{` around one place, that of the rule's body among them. Each doubles the time that parsing takes.
pub const BRACKETS_MAX: usize = 8;
/// Rules of which each depends on the next. Whoever evaluates them recurses once for each.
pub const RULE_DEPTH_MAX: usize = 16;
/// Milliseconds of one evaluation, after which the answer is no. Far above what a sound policy takes (microseconds), so
/// that a machine under load does not deny.
pub const EVALUATION_MS_MAX: u64 = 100;
/// Steps of the interpreter between two looks at the clock.
pub const EVALUATION_STEPS_PER_CHECK: u32 = 16;
/// Roles of one agent.
pub const ROLES_MAX: usize = 64;
/// Capabilities of one agent.
pub const CAPABILITIES_MAX: usize = 256;
/// Bytes of each text in a request.
pub const TEXT_BYTES_MAX: usize = 512;
/// Recent messages that a policy can count. With more, a policy that counts them denies: a lower count would allow.
pub const RECENT_MESSAGES_MAX: u32 = 10_000;

const _: () = assert!(EVALUATION_STEPS_PER_CHECK > 0);

use creto_envelope::AgentId;

use super::RotationSchedule::{Daily, Hourly, Off, Weekly};

#[test]
fn a_key_is_due_within_the_last_sixteenth_of_its_period_at_the_agents_own_moment() {
    for (schedule, period_ms) in [(Hourly, 3_600_000), (Daily, 86_400_000), (Weekly, 604_800_000_u64)] {
        let due: Vec<u64> = (0..=u8::MAX).map(|last| schedule.due_ms(1_000, &AgentId([last; 16]))).collect();
        assert_eq!(due[0], 1_000 + period_ms);
        assert!(due.is_sorted_by(|early, late| early > late), "agents are spread");
        assert!(due[255] > 1_000 + period_ms - period_ms / 16);
    }
    assert_eq!(Off.due_ms(0, &AgentId([0; 16])), u64::MAX);
    assert_eq!(Hourly.due_ms(u64::MAX, &AgentId([0; 16])), u64::MAX, "a key of no known age is not due");
}

//! Bugs that the simulator must see: a rule that has never found anything may be blind.
//!
//! `cargo test -p creto-sim --test planted` plants those around the product. With `--features planted-bugs` also those inside
//! of it; they are chosen for each thread, so every test has its own.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

use std::sync::LazyLock;

use creto_sim::{Options, PlantedBug, Pool, Rule, run_seed};

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

/// Within so many seeds a bug must show. Most do within ten; some need several faults in a row.
const SEEDS: u64 = 2_000;

#[track_caller]
fn check(bug: PlantedBug, rules: &[Rule]) {
    check_for(Options::default().steps, bug, rules);
}

/// The same in runs of so many steps: some bugs need a log that was trimmed often.
#[track_caller]
fn check_for(steps: u64, bug: PlantedBug, rules: &[Rule]) {
    let options = Options { steps, planted: Some(bug), ..Options::default() };
    let caught = (0..SEEDS).map(|seed| run_seed(&POOL, seed, &options)).find(|outcome| outcome.violation.is_some());
    let caught = caught.unwrap_or_else(|| panic!("{bug:?} was not caught within {SEEDS} seeds"));
    let (violation, trace) = caught.violation.unwrap();
    println!("{bug:?}: seed {}: {violation}", caught.seed);
    assert!(rules.contains(&violation.rule), "{bug:?} was caught by the wrong rule: {violation}");
    assert!(!trace.is_empty(), "a violation comes with its trace");
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    check(PlantedBug::AckBeforeSync, &[Rule::AcknowledgedIsDurable, Rule::DeliveredIsDurable]);
}

#[test]
fn believing_a_second_sync_is_caught() {
    // A backup may be the first to miss it.
    let lost = [Rule::NothingAcknowledgedIsLost, Rule::BackupIsThatMoment];
    let rules = [&[Rule::AcknowledgedIsDurable, Rule::DeliveredIsDurable][..], &lost].concat();
    check(PlantedBug::RetrySync, &rules);
}

#[test]
fn a_folder_that_is_not_synced_is_caught() {
    check(PlantedBug::SkipFolderSync, &[Rule::NothingAcknowledgedIsLost, Rule::SettledStaysSettled]);
}

#[test]
fn forgetting_message_ids_at_a_restart_is_caught() {
    check(PlantedBug::ForgetDedupOnRestart, &[Rule::StoredOnce]);
}

#[test]
fn forgetting_settles_at_a_restart_is_caught() {
    check(PlantedBug::LostSettle, &[Rule::SettledStaysSettled]);
}

#[test]
fn rings_that_reorder_are_caught() {
    // Credit that overtakes its subscription is lost, and then a mailbox never empties; a delivery without the one before it
    // lacks its batch header.
    check(PlantedBug::Reorder, &[Rule::Order, Rule::ComesToRest, Rule::Content]);
}

#[test]
fn repairing_a_log_by_cutting_it_is_caught() {
    check(PlantedBug::RepairByTruncation, &[Rule::DamageIsNotCut]);
}

#[test]
fn an_answer_of_somebody_who_was_not_asked_is_caught() {
    check(PlantedBug::TakeAnyAnswer, &[Rule::AnsweredOnce]);
}

#[test]
fn a_chunk_that_is_left_of_a_file_that_was_refused_is_caught() {
    check(PlantedBug::KeepChunks, &[Rule::WholeOrNotAtAll]);
}

/// Bugs inside the product.
#[cfg(feature = "planted-bugs")]
mod inside {
    use creto_store::planted::Bug;

    use super::*;

    /// What is not durable was taken for it: whoever is told first, a sender or a consumer, or nobody, because it cannot be
    /// read back.
    const NOT_DURABLE: [Rule; 3] = [Rule::AcknowledgedIsDurable, Rule::DeliveredIsDurable, Rule::Content];

    #[track_caller]
    fn check(bug: Bug, rules: &[Rule]) {
        super::check(PlantedBug::Product(bug), rules);
    }

    #[test]
    fn links_that_are_not_compared_are_caught() {
        check(Bug::SkipPreviousCrc, &[Rule::DamageIsNotCut]);
    }

    #[test]
    fn cutting_at_the_first_bad_frame_is_caught() {
        check(Bug::CutAtFirstBadFrame, &[Rule::DamageIsNotCut, Rule::LiesAreNoticed]);
    }

    #[test]
    fn a_nonce_that_is_not_compared_is_caught() {
        check(Bug::IgnoreNonce, &[Rule::SoundIsNotRefused, Rule::Content]);
    }

    #[test]
    fn frames_of_a_files_earlier_life_are_caught() {
        let rules = [
            Rule::NothingAcknowledgedIsLost,
            Rule::SettledStaysSettled,
            Rule::StoredOnce,
            Rule::SoundIsNotRefused,
            Rule::DamageIsNotCut,
        ];
        check(Bug::AcceptOldFrames, &rules);
    }

    #[test]
    fn unproven_frames_that_are_not_written_back_are_caught() {
        // Who subscribed may be the first to miss it.
        let rules = [&NOT_DURABLE[..], &[Rule::NothingAcknowledgedIsLost, Rule::SubscriptionIsKept]].concat();
        check(Bug::SkipRewrite, &rules);
    }

    #[test]
    fn acknowledging_beyond_a_gap_is_caught() {
        check(Bug::AcknowledgeBeyondGap, &NOT_DURABLE);
    }

    #[test]
    fn acknowledging_a_failed_write_is_caught() {
        // Or it is a backup that does not have what was not written.
        check(Bug::AcknowledgeFailedWrite, &[&NOT_DURABLE[..], &[Rule::BackupIsThatMoment]].concat());
    }

    #[test]
    fn delivering_before_durable_is_caught() {
        check(Bug::DeliverBeforeDurable, &NOT_DURABLE);
    }

    #[test]
    fn a_last_frame_that_nothing_confirms_is_caught() {
        check(Bug::SkipConfirmation, &[Rule::DamageIsNotCut]);
    }

    #[test]
    fn trimming_before_the_carry_over_is_durable_is_caught() {
        check(Bug::TrimBeforeCarryOver, &[Rule::NothingAcknowledgedIsLost]);
    }

    #[test]
    fn a_segment_that_is_made_too_early_is_caught() {
        // Its file is there, that of the one before is not: a sound log is refused, or one is cut.
        check(Bug::PrepareEarly, &[Rule::NothingAcknowledgedIsLost, Rule::SoundIsNotRefused]);
    }

    #[test]
    fn reusing_sequences_after_a_restart_is_caught() {
        check(Bug::ReuseSequence, &[Rule::StoredOnce]);
    }

    #[test]
    fn forgetting_the_floor_of_a_senders_ids_is_caught() {
        check_for(2_000, PlantedBug::Product(Bug::ForgetFloor), &[Rule::StoredOnce]);
    }

    #[test]
    fn messages_that_expire_too_early_are_caught() {
        check(Bug::ExpireEarly, &[Rule::SettledForAReason]);
    }

    #[test]
    fn forgetting_what_expired_before_its_sender_is_told_is_caught() {
        check(Bug::ForgetBeforeNotice, &[Rule::ExpiredIsTold]);
    }

    #[test]
    fn telling_nobody_of_what_expired_on_disk_is_caught() {
        check(Bug::NoNoticeFromDisk, &[Rule::ExpiredIsTold]);
    }

    #[test]
    fn duplicates_that_are_answered_too_early_are_caught() {
        check(Bug::AnswerDuplicateEarly, &[Rule::AcknowledgedIsDurable]);
    }

    #[test]
    fn messages_that_overtake_others_are_caught() {
        check(Bug::LetOvertake, &[Rule::Order]);
    }

    #[test]
    fn settles_that_never_reach_the_log_are_caught() {
        let rules = [Rule::NothingAcknowledgedIsLost, Rule::RestsEmpty, Rule::BackupIsThatMoment];
        check(Bug::SettleInMemoryOnly, &rules);
    }

    #[test]
    fn a_fenced_shard_that_answers_is_caught() {
        check(Bug::AnswerWhenFenced, &[Rule::AcknowledgedIsDurable, Rule::FencedIsSilent]);
    }

    #[test]
    fn credit_that_counts_twice_is_caught() {
        check(Bug::CountCreditTwice, &[Rule::CreditIsKept]);
    }

    #[test]
    fn dead_letters_that_forget_it_when_they_are_moved_are_caught() {
        check(Bug::ForgetDeadWhenMoved, &[Rule::DeadStaysDead]);
    }

    #[test]
    fn dead_letters_that_are_delivered_after_a_restart_are_caught() {
        check(Bug::ReviveOnRestart, &[Rule::DeadStaysDead]);
    }

    #[test]
    fn a_pause_that_never_ends_is_caught() {
        check(Bug::PauseForEver, &[Rule::ComesToRest]);
    }

    #[test]
    fn dead_letters_that_live_again_without_a_record_are_caught() {
        check(Bug::ReviveInMemoryOnly, &[Rule::AcknowledgedIsDurable, Rule::DeadStaysDead]);
    }

    #[test]
    fn a_moved_message_that_counts_twice_is_caught() {
        check(Bug::CountMovedTwice, &[Rule::RestsEmpty]);
    }

    #[test]
    fn a_message_that_is_read_where_it_was_before_it_was_moved_is_caught() {
        check(Bug::KeepOldOffset, &[Rule::Content]);
    }

    #[test]
    fn moving_a_message_that_is_being_settled_is_caught() {
        check(Bug::MoveWhileSettling, &[Rule::SettledStaysSettled]);
    }

    #[test]
    fn a_digest_without_what_was_moved_is_caught() {
        check(Bug::LeaveMovedOutOfDigest, &[Rule::NothingAcknowledgedIsLost]);
    }

    #[test]
    fn the_digest_of_another_segment_is_caught() {
        check(Bug::TakeAnyDigest, &[Rule::NothingAcknowledgedIsLost]);
    }

    #[test]
    fn a_digest_without_its_last_frame_is_caught() {
        check(Bug::LeaveOutLastFrame, &[Rule::NothingAcknowledgedIsLost]);
    }

    #[test]
    fn believing_what_is_read_back_is_caught() {
        check(Bug::BelieveWhatIsRead, &[Rule::Content]);
    }

    #[test]
    fn a_held_segment_that_is_reused_is_caught() {
        check(Bug::ReuseHeld, &[Rule::BackupIsThatMoment]);
    }

    #[test]
    fn a_cursor_that_makes_room_before_it_is_durable_is_caught() {
        check(Bug::CursorBeforeDurable, &[Rule::SettledForAReason]);
    }

    #[test]
    fn room_that_is_made_of_what_somebody_still_wants_is_caught() {
        check(Bug::MakeRoomOfUnconsumed, &[Rule::SettledForAReason]);
    }

    #[test]
    fn a_cursor_that_moves_one_message_too_far_is_caught() {
        check(Bug::AcknowledgeOneMore, &[Rule::SettledForAReason, Rule::PublishedIsKept]);
    }

    #[test]
    fn a_reader_that_goes_back_to_what_is_durable_is_caught() {
        check(Bug::GoBackToDurable, &[Rule::ConsumedStaysConsumed]);
    }

    #[test]
    fn forgetting_cursors_at_a_restart_is_caught() {
        check(Bug::ForgetCursors, &[Rule::SubscriptionIsKept]);
    }

    #[test]
    fn forgetting_subscriptions_that_were_carried_over_is_caught() {
        check(Bug::ForgetCarriedSubscriptions, &[Rule::SubscriptionIsKept]);
    }

    #[test]
    fn a_subscription_that_begins_behind_the_next_message_is_caught() {
        check(Bug::BeginLate, &[Rule::PublishedIsKept]);
    }

    #[test]
    fn a_message_in_the_hands_of_two_members_is_caught() {
        check(Bug::HandOutTwice, &[Rule::OneHandAtATime]);
    }

    #[test]
    fn a_subscription_that_is_told_before_it_is_durable_is_caught() {
        check(Bug::SubscribedBeforeDurable, &[Rule::AcknowledgedIsDurable]);
    }

    #[test]
    fn reading_on_after_a_removal_is_caught() {
        check(Bug::ReadAfterRemoval, &[Rule::RemovedGetNothing]);
    }

    #[test]
    fn a_join_that_is_told_after_the_answer_is_caught() {
        check(Bug::TellJoinLate, &[Rule::JoinIsToldFirst]);
    }

    #[test]
    fn the_end_of_a_subscription_that_is_refused_and_forgotten_is_caught() {
        check(Bug::ForgetRefusedEnd, &[Rule::ComesToRest]);
    }

    #[test]
    fn a_subscription_that_becomes_durable_when_it_may_not_stay_is_caught() {
        check(Bug::LeaveLateJoined, &[Rule::ComesToRest]);
    }

    #[test]
    fn a_signal_that_is_stored_is_caught() {
        check(Bug::StoreSignals, &[Rule::SignalsLeaveNoTrace]);
    }

    #[test]
    fn credit_for_signals_that_outlives_its_subscription_is_caught() {
        check(Bug::KeepSignalCredit, &[Rule::CreditIsKept]);
    }

    #[test]
    fn signals_of_whoever_was_revoked_are_caught() {
        check(Bug::SignalOfRevoked, &[Rule::RemovedGetNothing]);
    }

    #[test]
    fn telling_whether_anybody_listens_is_caught() {
        check(Bug::TellWhoListens, &[Rule::SignalsGoToWhoListens]);
    }

    #[test]
    fn showing_presence_to_strangers_is_caught() {
        check(Bug::ShowToAnybody, &[Rule::PresenceIsTrue]);
    }

    #[test]
    fn presence_that_outlives_its_subscription_is_caught() {
        check(Bug::KeepPresence, &[Rule::PresenceIsTrue]);
    }

    #[test]
    fn pushing_what_is_over_is_caught() {
        check(Bug::PushWhatIsOver, &[Rule::OverIsNotPushed]);
    }

    #[test]
    fn a_mailbox_that_takes_more_than_its_quota_is_caught() {
        check(Bug::ForgetQuota, &[Rule::QuotaIsKept]);
    }
}

use super::*;

#[test]
fn as_many_subscriptions_as_there_may_be_fit_what_a_node_lets_wait_for_a_connection() {
    let mut windows = Vec::new();
    for _ in 0..CHANNEL_SUBSCRIPTIONS_MAX {
        windows.push(window_bytes(windows.iter().copied(), None).unwrap());
    }
    assert!(windows.iter().all(|window| *window >= CHANNEL_WINDOW_BYTES_LEAST));
    assert!(windows.iter().sum::<u32>() <= CHANNEL_WINDOWS_BYTES);
    assert!(windows[0] >= 1 << 20, "one alone has plenty");
    // Who leaves makes room.
    windows.remove(0);
    assert!(window_bytes(windows.iter().copied(), None).unwrap() >= 1 << 19);
}

#[test]
fn a_window_that_does_not_fit_beside_the_others_is_refused() {
    let all = CHANNEL_WINDOWS_BYTES;
    assert_eq!(window_bytes([].into_iter(), Some(all)).unwrap(), all);
    let refused = window_bytes([].into_iter(), Some(all + 1)).unwrap_err();
    assert!(matches!(refused, ChannelError::WindowTooLarge { bytes, left } if bytes == all + 1 && left == all));
    assert!(window_bytes([all].into_iter(), None).is_err(), "somebody took it all");
    assert_eq!(window_bytes([all - 7].into_iter(), None).unwrap(), 7);
    let refused = window_bytes([all - 7].into_iter(), Some(8)).unwrap_err();
    assert!(refused.to_string().contains("window_bytes"), "{refused}");
}

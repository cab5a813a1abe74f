//! A real node: real QUIC, real files, agents that talk through the SDK.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

mod home;

use home::{Home, on_time};

#[test]
fn messages_reach_their_reader_and_survive_a_restart() {
    on_time(async {
        let home = Home::new();
        let node = home.start();
        let planner = home.register(&node, "acme/planner").await;
        let executor = home.register(&node, "acme/executor").await;
        let stranger = home.register(&node, "other/stranger").await;
        let executor_name = executor.name().clone();

        let planner = home.connect(&node, planner).await;
        for number in 0..100u32 {
            planner.send(&executor_name, number.to_le_bytes().to_vec()).await.unwrap();
        }
        let refused = home.connect(&node, stranger).await.send(&executor_name, "hello").await;
        // A stranger may not even read the key record that it would seal to.
        assert!(refused.is_err_and(|error| error.to_string().contains("policy")));
        planner.close().await;
        let summary = node.stop().unwrap();
        assert!(summary.drained);
        assert_eq!(summary.shards.iter().map(|shard| shard.messages_durable).sum::<u64>(), 100);

        let node = home.start();
        assert_eq!(node.recovered().messages, 100);
        let reader = home.connect(&node, executor).await;
        let mut subscription = reader.subscribe().unwrap();
        for number in 0..100u32 {
            let delivery = subscription.next().await.unwrap().unwrap();
            assert_eq!(delivery.payload.as_ref(), number.to_le_bytes());
            delivery.ack();
        }
        reader.close().await;
        node.stop().unwrap();
    });
}

//! Which channels there are: answered by the shard of the connection from its snapshot, page by page.
//!
//! Whoever may not subscribe to a channel does not learn that it is there.

use creto_envelope::RejectCode;
use creto_envelope::channel::listing::{CHANNELS_LISTED_MAX, ChannelList, ChannelListed};
use creto_policy::{Action as PolicyAction, Snapshot};
use creto_store::RecordLog;

use crate::event::{Action, ConnectionId, Now};
use crate::limits::{CHANNELS_LOOKED_THROUGH, LISTINGS_PER_TURN};
use crate::request::{Outcome, about_context};
use crate::shard::Shard;

impl<L: RecordLog> Shard<L> {
    /// Answers with the next page.
    pub(crate) fn list_channels(
        &mut self,
        now: Now,
        connection: ConnectionId,
        body: &[u8],
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let agent = self.logged_in(connection)?.agent;
        let ChannelList { context, after, is_watched, pattern } = ChannelList::parse(body)?;
        let refused = about_context(context);
        if self.draining {
            return Err(refused(RejectCode::ShuttingDown));
        }
        if self.snapshot.policy().is_none() {
            return Err(refused(RejectCode::PolicyUnavailable));
        }
        // A page may take as long as the verification of a batch; and nobody has all of a turn's.
        let turn = self.channels.turn;
        let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
        if self.channels.listings >= LISTINGS_PER_TURN || end.listed_in == Some(turn) {
            return Err(refused(RejectCode::Overloaded));
        }
        end.listed_in = Some(turn);
        self.channels.listings += 1;

        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let (mut names, mut last, mut is_all) = (Vec::new(), None, true);
        // From where the listing may go on: the client learns the id of no channel but those that it is named.
        let mut next = None;
        for (looked, channel) in snapshot.channels_after(after.as_ref()).enumerate() {
            let id = channel.id();
            if let Some(last) = last.replace(id)
                && Snapshot::channels_until(&last) != Snapshot::channels_until(&id)
            {
                next = Some(Snapshot::channels_until(&last));
            }
            if names.len() == CHANNELS_LISTED_MAX || (looked >= CHANNELS_LOOKED_THROUGH && next.is_some()) {
                is_all = false;
                break;
            }
            if pattern.matches(&channel.record().name) {
                match self.may(now, &agent, PolicyAction::SubscribeChannel, &PolicyAction::on_channel(&id)) {
                    Ok(()) => {
                        names.push(channel.record().name.clone());
                        next = Some(id);
                    }
                    // The turn's time for evaluations is spent.
                    Err(RejectCode::Overloaded) => {
                        is_all = false;
                        break;
                    }
                    Err(_) => {}
                }
            }
        }
        if !is_all && next.is_none() {
            return Err(refused(RejectCode::Overloaded));
        }
        let next = next.filter(|_| !is_all);
        // With any page: what comes meanwhile may belong to one before.
        if is_watched {
            let end = &mut self.connections.get_mut(&connection).expect("it is logged in").channels;
            end.watched_listing = Some(context);
        }
        let mut out = Vec::new();
        ChannelListed::Page { context, next, names }.encode(&mut out);
        self.send_control(connection, out.into(), actions);
        Ok(())
    }

    /// There is a new snapshot: whoever wants to know that listings may have other answers is told, once.
    pub(crate) fn tell_listings(&mut self, before: &Snapshot, actions: &mut Vec<Action>) {
        let is_same = self.snapshot.has_channels_and_policy_of(before);
        let mut told = Vec::new();
        for (&connection, state) in &mut self.connections {
            let (Some(context), Some(login)) = (state.channels.watched_listing, &state.login) else { continue };
            // What an agent may depends on its own attributes, too.
            let agent = &login.agent;
            if !is_same || self.snapshot.principal(agent) != before.principal(agent) {
                state.channels.watched_listing = None;
                told.push((connection, context));
            }
        }
        for (connection, context) in told {
            let mut out = Vec::new();
            ChannelListed::Changed { context }.encode(&mut out);
            self.send_control(connection, out.into(), actions);
        }
    }
}

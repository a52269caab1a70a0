//! `Delivery`: what the broker says of a message.

use std::num::NonZeroU32;

use crate::Fingerprint;

/// What the broker says of a message: its key, its content, how often it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it says which operation a message asks for"]
pub struct Delivery {
    pub(super) key: Vec<u8>,
    pub(super) fingerprint: Fingerprint,
    pub(super) count: Option<NonZeroU32>,
    pub(super) group: Option<Vec<u8>>,
}

impl Delivery {
    /// A message with this key. The key is the message's id, if its producer gives it the same id
    /// when it sends again; an id that the broker draws for each sending does not find duplicates.
    /// A key from the content is better, such as the number of the order.
    ///
    /// The fingerprint is that of the content alone. Headers that change between two deliveries do
    /// not belong in it.
    pub fn new(key: impl AsRef<[u8]>, fingerprint: Fingerprint) -> Self {
        Self { key: key.as_ref().to_vec(), fingerprint, count: None, group: None }
    }

    /// Which delivery of the message this is, from 1 on, as brokers count them: SQS's
    /// `ApproximateReceiveCount`, NATS's `num_delivered`, the times delivered in a pending entry
    /// of Redis. 0 stands for an unknown count, and so does leaving out this call:
    /// [`Consumer::deliveries_max`](super::Consumer::deliveries_max) does not apply then.
    pub fn count(mut self, deliveries: u32) -> Self {
        self.count = NonZeroU32::new(deliveries);
        self
    }

    /// Messages of one group are handled one after the other, in the order of the batch: SQS's
    /// message group, a partition of Kafka. If one of them is to be delivered again, so are those
    /// behind it. Without a group only messages with one key wait for each other.
    pub fn group(mut self, name: impl AsRef<[u8]>) -> Self {
        self.group = Some(name.as_ref().to_vec());
        self
    }
}

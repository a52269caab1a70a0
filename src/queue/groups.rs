//! Which messages of a batch are handled one after the other.

use std::collections::HashMap;

use super::delivery::Delivery;

/// A message on its way, with its position in the batch.
pub(super) struct Item<M> {
    pub(super) at: usize,
    pub(super) message: M,
    pub(super) delivery: Delivery,
}

/// The messages of a batch, in groups whose members keep their order. A message without a group is
/// in one with all that have its key, so that the second is answered by the result of the first.
pub(super) fn grouped<M>(batch: Vec<M>, describe: impl Fn(&M) -> Delivery) -> Vec<Vec<Item<M>>> {
    let mut places = HashMap::new();
    let mut groups: Vec<Vec<Item<M>>> = Vec::new();
    for (at, message) in batch.into_iter().enumerate() {
        let delivery = describe(&message);
        let name = match &delivery.group {
            Some(group) => (true, group.clone()),
            None => (false, delivery.key.clone()),
        };
        let item = Item { at, message, delivery };
        let place = *places.entry(name).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

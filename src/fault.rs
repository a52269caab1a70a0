//! `Fault`: how an operation can fail.

/// How an operation failed. Only the operation itself can know. There will be no fourth variant:
/// each is one way to end a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "it says what becomes of the key"]
pub enum Fault<E> {
    /// For good: the card was declined. It is stored, and every retry gets it.
    Final(E),
    /// This attempt certainly did nothing: the connection was refused. The claim is released, and
    /// a retry runs the operation again.
    Retry(E),
    /// It is unknown whether the effect happened: the reply did not come. The key is left
    /// interrupted: by default nothing runs until it is [resolved](crate::Scope::resolve), see
    /// [`Recovery`](crate::Recovery). If in doubt, use this one.
    Unknown(E),
}

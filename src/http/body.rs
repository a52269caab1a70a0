//! Bodies of requests and responses that go through the layer: read to their end, or handed on as
//! they come.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// The body of a request behind the layer, and of a response in front of it. It is one of:
///
/// - bytes that the layer has read, or has from a record;
/// - `B`, as it comes, perhaps with bytes in front that the layer has read.
pub struct LayerBody<B: Body>(State<B>);

enum State<B: Body> {
    Whole(Whole),
    /// What was read, then what is left. Boxed, since it was perhaps polled and must not move.
    Passing(Bytes, Pin<Box<B>>),
    /// What was read, then the error that came then.
    Broken(Bytes, Option<B::Error>),
}

/// All of a body.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    pub(super) data: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// A body of which at most so many bytes were asked for.
pub(super) enum Read<B: Body> {
    Whole(Whole),
    /// It is longer, or takes longer.
    TooLong(LayerBody<B>),
    Failed(Bytes, B::Error),
}

/// How far a body was read.
pub(super) enum Reached<E> {
    End,
    Limit,
    Error(E),
}

/// A body that is being read.
pub(super) struct Reading<B: Body> {
    body: Pin<Box<B>>,
    gathered: Gathered,
    trailers: Option<HeaderMap>,
    limit: usize,
}

impl<B: Body<Data = Bytes>> LayerBody<B> {
    pub(super) fn whole(whole: Whole) -> Self {
        Self(State::Whole(whole))
    }

    pub(super) fn bytes(data: Bytes) -> Self {
        Self::whole(Whole { data, trailers: None })
    }

    pub(super) fn passing(body: B) -> Self {
        Self(State::Passing(Bytes::new(), Box::pin(body)))
    }

    pub(super) fn broken(read: Bytes, error: B::Error) -> Self {
        Self(State::Broken(read, Some(error)))
    }
}

/// Reads a body to its end, unless it has more than `limit` bytes.
pub(super) async fn read<B: Body<Data = Bytes>>(body: B, limit: usize) -> Read<B> {
    let mut reading = Reading::new(body, limit);
    let reached = reading.read_on().await;
    reading.finish(Some(reached))
}

impl<B: Body<Data = Bytes>> Reading<B> {
    pub(super) fn new(body: B, limit: usize) -> Self {
        Self { body: Box::pin(body), gathered: Gathered::default(), trailers: None, limit }
    }

    /// Reads to the end of the body, or to its limit. If this is dropped, nothing that was read is
    /// lost.
    pub(super) async fn read_on(&mut self) -> Reached<B::Error> {
        if self.body.size_hint().lower() > self.limit as u64 {
            return Reached::Limit;
        }
        while let Some(frame) = self.body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Reached::Error(error),
            };
            match frame.into_data() {
                Ok(data) => {
                    self.gathered.push(data);
                    if self.gathered.len() > self.limit {
                        return Reached::Limit;
                    }
                }
                Err(frame) => {
                    if let Ok(more) = frame.into_trailers() {
                        self.trailers.get_or_insert_default().extend(more);
                    }
                }
            }
        }
        Reached::End
    }

    /// What came of it; `None` where it was not read on for long enough.
    pub(super) fn finish(self, reached: Option<Reached<B::Error>>) -> Read<B> {
        let Self { body, gathered, trailers, limit: _ } = self;
        match reached {
            Some(Reached::End) => Read::Whole(Whole { data: gathered.finish(), trailers }),
            Some(Reached::Error(error)) => Read::Failed(gathered.finish(), error),
            // Nothing comes after trailers.
            None if trailers.is_some() => Read::Whole(Whole { data: gathered.finish(), trailers }),
            None | Some(Reached::Limit) => Read::TooLong(LayerBody(State::Passing(gathered.finish(), body))),
        }
    }
}

/// Data of a body. Nearly always it comes as one piece, which is not copied then.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    joined: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
        } else {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
            self.joined.extend_from_slice(&data);
        }
    }

    fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

/// What is there, where there is something.
fn taken(data: &mut Bytes) -> Option<Bytes> {
    (!data.is_empty()).then(|| std::mem::take(data))
}

impl<B: Body<Data = Bytes>> Body for LayerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.get_mut().0 {
            State::Whole(Whole { data, trailers }) => {
                let data = taken(data).map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            State::Passing(read, rest) => match taken(read) {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => rest.as_mut().poll_frame(context),
            },
            State::Broken(read, error) => match taken(read) {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Poll::Ready(error.take().map(Err)),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Whole(Whole { data, trailers }) => data.is_empty() && trailers.is_none(),
            State::Passing(read, rest) => read.is_empty() && rest.is_end_stream(),
            State::Broken(read, error) => read.is_empty() && error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Whole(Whole { data, trailers: None }) => SizeHint::with_exact(data.len() as u64),
            // A server of HTTP/1.1 gives a body of known length a `Content-Length`, and no trailers.
            State::Whole(Whole { data, trailers: Some(_) }) => {
                let mut hint = SizeHint::new();
                hint.set_lower(data.len() as u64);
                hint
            }
            State::Passing(read, rest) => {
                let (mut hint, rest) = (SizeHint::new(), rest.size_hint());
                // An upper bound goes first: the lower must not be above it.
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(read.len() as u64));
                }
                hint.set_lower(rest.lower().saturating_add(read.len() as u64));
                hint
            }
            State::Broken(..) => SizeHint::new(),
        }
    }
}

/// It is polled through its box only.
impl<B: Body> Unpin for LayerBody<B> {}

/// An empty body.
impl<B: Body> Default for LayerBody<B> {
    fn default() -> Self {
        Self(State::Whole(Whole::default()))
    }
}

/// Without its bytes.
impl<B: Body> fmt::Debug for LayerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Whole(_) => "LayerBody(whole)",
            State::Passing(..) => "LayerBody(passing)",
            State::Broken(..) => "LayerBody(broken)",
        })
    }
}

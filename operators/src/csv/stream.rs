//! Reads compressed files, one split each: text is decoded piece by piece on an I/O thread, one piece
//! ahead of the one that is parsed.
//!
//! What is left of a piece, the beginning of a record, is moved in front of the next piece, which leaves
//! room for it.

use std::io::Read;
use std::sync::Arc;

use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::{OperatorError, Outbox, Result, Source, SourceContext, SourceStep, Split};

use super::batch::{Broken, Rest, What};
use super::files::read_full;
use super::index::PADDING_BYTES;
use super::reader::{MAX_RECORD_BYTES, Reader, blocked, has_failed, poll};
use super::scan::{Shared, check_header};

/// Room in front of a piece for the beginning of a record.
const HEADROOM_BYTES: usize = 16 * 1024;

/// Bytes of text that are decoded at once.
pub(crate) fn piece_bytes(split_bytes: usize) -> usize {
    (split_bytes / 2).clamp(64 * 1024, 512 * 1024)
}

/// Bytes of the buffers that an instance has at the least.
pub(crate) fn stream_bytes(split_bytes: usize) -> usize {
    2 * (piece_bytes(split_bytes) + HEADROOM_BYTES + PADDING_BYTES)
}

type Text = Box<dyn Read + Send>;

/// One partition of a scan over compressed files.
pub(crate) struct Stream {
    reader: Reader,
    state: State,
    /// The piece behind the current one, as it is decoded.
    ahead: Option<Pending<Result<(Text, Piece)>>>,
    /// The decoder, when it does not work.
    text: Option<Text>,
    /// Buffers that are not in use.
    spare: Vec<Vec<u8>>,
    /// Bytes beyond what the two usual buffers take.
    extra_bytes: usize,
    /// The header is still to come.
    header: bool,
}

/// Decoded text: `bytes[from..to]`, padded, `from` at least [`HEADROOM_BYTES`] at first.
struct Piece {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
    eof: bool,
}

enum State {
    Idle,
    /// What is left of the last piece, and where in the text it begins.
    Waiting {
        left: Option<Piece>,
        offset: u64,
    },
    /// The next piece is there.
    Joining {
        left: Option<Piece>,
        piece: Piece,
        offset: u64,
        text: Text,
    },
    Parsing {
        piece: Piece,
        offset: u64,
    },
    Failing(Pending<OperatorError>),
}

/// What joining two pieces comes to.
enum Joined {
    Piece(Piece),
    /// Memory is to be waited for.
    Waits(Piece, Piece, Ticket),
}

impl Stream {
    pub(crate) fn open(shared: Arc<Shared>, context: SourceContext) -> Result<Self> {
        Ok(Self {
            reader: Reader::open(shared, context)?,
            state: State::Idle,
            ahead: None,
            text: None,
            spare: vec![],
            extra_bytes: 0,
            header: false,
        })
    }

    /// What buffers, index and decoder take, with `extra_bytes` beyond the usual buffers.
    fn needed_bytes(&self, extra_bytes: usize) -> usize {
        let shared = &self.reader.shared;
        let decoder_bytes = self.reader.range.map_or(0, |range| shared.files[range.file].decoder_bytes());
        stream_bytes(shared.split_bytes) + extra_bytes + decoder_bytes + self.reader.index_bytes()
    }

    /// Starts to decode the next piece, unless that is under way or the text has ended.
    fn decode_ahead(&mut self) {
        let Some(mut text) = self.text.take() else { return };
        let mut bytes = self.spare.pop().unwrap_or_default();
        let shared = Arc::clone(&self.reader.shared);
        let piece = piece_bytes(shared.split_bytes);
        let file = self.reader.range.map_or(0, |range| range.file);
        self.ahead = Some(self.reader.context.io.run("decoding", move || {
            bytes.resize(HEADROOM_BYTES + piece + PADDING_BYTES, 0);
            let length = read_full(&mut text, &mut bytes[HEADROOM_BYTES..HEADROOM_BYTES + piece])
                // What became of the file says more than that it cannot be decoded.
                .map_err(|error| match error.downcast::<OperatorError>() {
                    Ok(error) => error,
                    Err(error) => OperatorError::io("decoding", &shared.files[file].path, error),
                })?;
            let (from, to) = (HEADROOM_BYTES, HEADROOM_BYTES + length);
            Ok((text, Piece { bytes, from, to, eof: length < piece }))
        }));
    }

    /// Puts what is left of a piece in front of the next one, or gives both back if memory is to be waited for.
    fn join(&mut self, left: Option<Piece>, mut piece: Piece) -> Result<Joined> {
        let Some(left) = left else { return Ok(Joined::Piece(piece)) };
        let length = left.to - left.from;
        if length <= piece.from {
            piece.from -= length;
            piece.bytes[piece.from..piece.from + length].copy_from_slice(&left.bytes[left.from..left.to]);
            self.put_back(left.bytes);
            return Ok(Joined::Piece(piece));
        }
        // A long record: one buffer for all of it. The doubling keeps the copies few.
        let text = piece.to - piece.from;
        let needed = length + text + PADDING_BYTES;
        if left.bytes.len() < needed {
            let capacity = needed.max(2 * left.bytes.len());
            // While it grows the old buffer and the new one are both there.
            let extra_bytes = 2 * capacity;
            let needed_bytes = self.needed_bytes(extra_bytes);
            if let Some(ticket) = self.reader.reserve(needed_bytes)? {
                return Ok(Joined::Waits(left, piece, ticket));
            }
            self.extra_bytes = extra_bytes;
        }
        let mut bytes = left.bytes;
        bytes.copy_within(left.from..left.to, 0);
        if bytes.len() < needed {
            bytes.resize(needed.max(2 * bytes.len()), 0);
        }
        bytes[length..length + text].copy_from_slice(&piece.bytes[piece.from..piece.to]);
        let joined = Piece { bytes, from: 0, to: length + text, eof: piece.eof };
        self.put_back(piece.bytes);
        Ok(Joined::Piece(joined))
    }

    /// Keeps a buffer for the next piece, unless a long record has made it large.
    fn put_back(&mut self, bytes: Vec<u8>) {
        if bytes.len() <= HEADROOM_BYTES + piece_bytes(self.reader.shared.split_bytes) + PADDING_BYTES {
            self.spare.push(bytes);
            self.spare.truncate(2);
        }
    }

    /// The error is the next step's result.
    fn fail(&mut self, offset: u64, broken: Broken) {
        self.state = State::Failing(self.reader.locate(offset, broken));
    }

    /// Takes the header off `piece`; `None` if more is needed for that or it is wrong.
    fn take_header(&mut self, mut piece: Piece, offset: u64) -> Result<Option<(Piece, u64)>> {
        let range = self.reader.range()?;
        match check_header(&self.reader.shared, range.file, &piece.bytes, piece.from, piece.to, piece.eof) {
            Ok(Some(next)) => {
                let offset = offset + (next - piece.from) as u64;
                piece.from = next;
                self.header = false;
                Ok(Some((piece, offset)))
            }
            Ok(None) => {
                self.state = State::Waiting { left: Some(piece), offset };
                Ok(None)
            }
            Err(Ok(broken)) => {
                let offset = offset + (broken.record - piece.from) as u64;
                self.fail(offset, broken);
                Ok(None)
            }
            Err(Err(error)) => Err(error),
        }
    }

    /// One batch of `piece`.
    fn parse(
        &mut self,
        piece: Piece,
        offset: u64,
        budget_bytes: usize,
        out: &mut Outbox,
    ) -> Result<Option<SourceStep>> {
        let parsed = match self.reader.parse(&piece.bytes, (piece.from, piece.to, piece.eof), budget_bytes) {
            Ok(parsed) => parsed,
            Err(broken) => {
                self.fail(offset + (broken.record - piece.from) as u64, broken);
                return Ok(None);
            }
        };
        let emitted = parsed.batch.is_some();
        if let Some(batch) = parsed.batch {
            out.push(batch);
        }
        let offset = offset + (parsed.next - piece.from) as u64;
        let piece = Piece { from: parsed.next, ..piece };
        if matches!(parsed.rest, Rest::More | Rest::Large(_)) {
            self.state = State::Parsing { piece, offset };
            return Ok(Some(SourceStep::More));
        }
        if piece.eof {
            self.put_back(piece.bytes);
            self.reader.range = None;
            self.text = None;
            self.extra_bytes = 0;
            self.state = State::Idle;
            return Ok(Some(SourceStep::Done));
        }
        let left = if piece.from < piece.to {
            Some(piece)
        } else {
            self.put_back(piece.bytes);
            None
        };
        self.state = State::Waiting { left, offset };
        Ok(emitted.then_some(SourceStep::More))
    }
}

impl Source for Stream {
    fn start(&mut self, split: &Split) -> Result<()> {
        let range = self.reader.start(split)?;
        self.header = self.reader.shared.header.is_some();
        let needed_bytes = self.needed_bytes(0);
        if self.reader.reserve(needed_bytes)?.is_some() {
            // The floor has room for the usual buffers.
            return Err(self.reader.context.memory.row_too_large(needed_bytes));
        }
        // Opening reads nothing yet.
        self.text = Some(self.reader.shared.files[range.file].text(Some(&self.reader.context.memory))?);
        self.state = State::Waiting { left: None, offset: 0 };
        self.decode_ahead();
        Ok(())
    }

    fn step_bytes(&self, budget_bytes: usize) -> usize {
        self.reader.step_bytes(budget_bytes)
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle if self.reader.range.is_none() => return Ok(SourceStep::Done),
                State::Idle => return Err(has_failed()),
                State::Waiting { left, offset } => {
                    let pending = self.ahead.take().ok_or_else(has_failed)?;
                    let (text, mut piece) = match poll(pending)? {
                        Ok(decoded) => decoded?,
                        Err(pending) => {
                            let step = blocked(&pending);
                            self.ahead = Some(pending);
                            self.state = State::Waiting { left, offset };
                            return Ok(step);
                        }
                    };
                    let mut offset = offset;
                    if offset == 0 && left.is_none() && piece.bytes[piece.from..piece.to].starts_with(b"\xEF\xBB\xBF") {
                        piece.from += 3;
                        offset = 3;
                    }
                    self.state = State::Joining { left, piece, offset, text };
                }
                State::Joining { left, offset, .. }
                    if left.as_ref().is_some_and(|left| left.to - left.from > MAX_RECORD_BYTES) =>
                {
                    self.fail(offset, Broken { record: 0, what: What::Long });
                }
                State::Joining { left, piece, offset, text } => {
                    let eof = piece.eof;
                    let piece = match self.join(left, piece)? {
                        Joined::Piece(piece) => piece,
                        Joined::Waits(left, piece, ticket) => {
                            self.state = State::Joining { left: Some(left), piece, offset, text };
                            return Ok(SourceStep::Blocked(ticket));
                        }
                    };
                    if !eof {
                        self.text = Some(text);
                        self.decode_ahead();
                    }
                    self.state = State::Parsing { piece, offset };
                }
                State::Parsing { piece, offset } => {
                    let taken = if self.header { self.take_header(piece, offset)? } else { Some((piece, offset)) };
                    if let Some((piece, offset)) = taken
                        && let Some(step) = self.parse(piece, offset, budget_bytes, out)?
                    {
                        return Ok(step);
                    }
                }
                State::Failing(pending) => match poll(pending)? {
                    Ok(error) => return Err(error),
                    Err(pending) => {
                        let step = blocked(&pending);
                        self.state = State::Failing(pending);
                        return Ok(step);
                    }
                },
            }
        }
    }
}

//! Reads compressed files, one split each: text is decoded piece by piece on an I/O thread, one piece
//! ahead of the one that is parsed.
//!
//! What is left of a piece, the beginning of a record, is moved in front of the next piece, which leaves
//! room for it.

use std::io::Read;
use std::sync::Arc;

use aqueduct_runtime::io::Pending;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::{OperatorError, Outbox, Result, Source, SourceContext, SourceStep, Split};

use super::batch::{BatchParser, Broken, Rest};
use super::error::locate;
use super::files::read_full;
use super::index::{PADDING_BYTES, index_bytes};
use super::plain::{MAX_RECORD_BYTES, blocked, poll};
use super::scan::{Shared, SplitRange, check_header, too_large};

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
    shared: Arc<Shared>,
    context: SourceContext,
    parser: BatchParser,
    reservation: Reservation,
    range: Option<SplitRange>,
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
    Parsing {
        piece: Piece,
        offset: u64,
    },
    Failing(Pending<OperatorError>),
}

impl Stream {
    pub(crate) fn open(shared: Arc<Shared>, context: SourceContext) -> Result<Self> {
        let parser = BatchParser::new(Arc::clone(&shared.layout))?;
        let reservation = context.memory.reservation();
        Ok(Self {
            shared,
            context,
            parser,
            reservation,
            range: None,
            state: State::Idle,
            ahead: None,
            text: None,
            spare: vec![],
            extra_bytes: 0,
            header: false,
        })
    }

    /// Makes the reservation what buffers, index and decoder take.
    fn reserve(&mut self, decoder_bytes: usize) -> Result<()> {
        let buffers = stream_bytes(self.shared.split_bytes) + self.extra_bytes;
        let needed = buffers + decoder_bytes + index_bytes(self.shared.layout.columns());
        if self.reservation.try_set(needed) { Ok(()) } else { Err(too_large(&self.context.memory, needed)) }
    }

    /// Starts to decode the next piece, unless that is under way or the text has ended.
    fn decode_ahead(&mut self) {
        let Some(mut text) = self.text.take() else { return };
        let mut bytes = self.spare.pop().unwrap_or_default();
        let piece = piece_bytes(self.shared.split_bytes);
        let shared = Arc::clone(&self.shared);
        let file = self.range.map_or(0, |range| range.file);
        self.ahead = Some(self.context.io.run("decoding", move || {
            bytes.resize(HEADROOM_BYTES + piece + PADDING_BYTES, 0);
            let length = read_full(&mut text, &mut bytes[HEADROOM_BYTES..HEADROOM_BYTES + piece])
                .map_err(|error| OperatorError::io("decoding", &shared.files[file].path, error))?;
            let (from, to) = (HEADROOM_BYTES, HEADROOM_BYTES + length);
            Ok((text, Piece { bytes, from, to, eof: length < piece }))
        }));
    }

    /// Puts what is left of a piece in front of the next one.
    fn join(&mut self, left: Option<Piece>, mut piece: Piece) -> Result<Piece> {
        let Some(left) = left else { return Ok(piece) };
        let length = left.to - left.from;
        if length > MAX_RECORD_BYTES {
            return Err(too_large(&self.context.memory, length));
        }
        let beginning = &left.bytes[left.from..left.to];
        if length <= piece.from {
            piece.from -= length;
            piece.bytes[piece.from..piece.from + length].copy_from_slice(beginning);
            self.put_back(left.bytes);
            return Ok(piece);
        }
        // A long record: one buffer for all of it. The doubling keeps the copies few.
        let text = piece.to - piece.from;
        let needed = length + text + PADDING_BYTES;
        let mut bytes = left.bytes;
        bytes.copy_within(left.from..left.to, 0);
        if bytes.len() < needed {
            let capacity = needed.max(2 * bytes.len());
            let before = self.extra_bytes;
            // While it grows the old buffer and the new one are both there.
            self.extra_bytes = 2 * capacity;
            let decoder_bytes = self.decoder_bytes();
            if let Err(error) = self.reserve(decoder_bytes) {
                self.extra_bytes = before;
                return Err(error);
            }
            bytes.resize(capacity, 0);
        }
        bytes[length..length + text].copy_from_slice(&piece.bytes[piece.from..piece.to]);
        let joined = Piece { bytes, from: 0, to: length + text, eof: piece.eof };
        self.put_back(piece.bytes);
        Ok(joined)
    }

    /// Keeps a buffer for the next piece, unless a long record has made it large.
    fn put_back(&mut self, bytes: Vec<u8>) {
        if bytes.len() <= HEADROOM_BYTES + piece_bytes(self.shared.split_bytes) + PADDING_BYTES {
            self.spare.push(bytes);
            self.spare.truncate(2);
        }
    }

    fn decoder_bytes(&self) -> usize {
        self.range.map_or(0, |range| self.shared.files[range.file].decoder_bytes())
    }

    fn fail(&mut self, offset: u64, broken: Broken) {
        let shared = Arc::clone(&self.shared);
        let file = self.range.map_or(0, |range| range.file);
        let work = move || locate(&shared.files[file], &shared.layout, offset, broken);
        self.state = State::Failing(self.context.io.run("decoding", work));
    }

    /// Takes the header off `piece`; `None` if more is needed for that or it is wrong.
    fn take_header(&mut self, mut piece: Piece, offset: u64) -> Result<Option<(Piece, u64)>> {
        let range = self.range.ok_or_else(no_split)?;
        match check_header(&self.shared, range.file, &piece.bytes, piece.from, piece.to, piece.eof) {
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
        let rows = self.context.batch_rows;
        let parsed = match self.parser.parse(&piece.bytes, piece.from, piece.to, piece.eof, budget_bytes, rows) {
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
        if parsed.rest == Rest::More {
            self.state = State::Parsing { piece, offset };
            return Ok(Some(SourceStep::More));
        }
        if piece.eof {
            self.put_back(piece.bytes);
            self.range = None;
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

fn no_split() -> OperatorError {
    OperatorError::new("a CSV source was read without a split")
}

impl Source for Stream {
    fn start(&mut self, split: &Split) -> Result<()> {
        let range = SplitRange::decode(split)?;
        self.range = Some(range);
        self.header = self.shared.header.is_some();
        self.reserve(self.shared.files[range.file].decoder_bytes())?;
        // Opening reads nothing yet.
        self.text = Some(self.shared.files[range.file].text(Some(&self.context.memory))?);
        self.state = State::Waiting { left: None, offset: 0 };
        self.decode_ahead();
        Ok(())
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle if self.range.is_none() => return Ok(SourceStep::Done),
                State::Idle => return Err(OperatorError::new("a CSV source was read after it had failed")),
                State::Waiting { left, offset } => {
                    let pending = self.ahead.take().ok_or_else(no_split)?;
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
                    let eof = piece.eof;
                    let piece = self.join(left, piece)?;
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

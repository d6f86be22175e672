//! The files of a source: their paths, sizes and compression, and how their text is read.
//!
//! Sizes are taken once, when the source is opened: what is appended to a file later is not read, and any other change
//! of it is an error.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::{OperatorError, Result};
use flate2::bufread::MultiGzDecoder;

use super::error::CsvError;
use crate::paths;
use crate::stamp::{Beginning, Since};

/// Bytes of compressed input that are read at once.
const INPUT_BYTES: usize = 64 * 1024;

/// Heap that a gzip decoder takes: its window, tables and state.
const GZIP_BYTES: usize = 64 * 1024;

/// Heap that a zstd decoder takes beside the window: its tables and the block it writes out.
const ZSTD_BYTES: usize = 512 * 1024;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    /// zstd, and the window of the first frame.
    Zstd {
        window_bytes: usize,
    },
}

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) compression: Compression,
    beginning: Beginning,
}

impl File {
    fn open(path: PathBuf) -> Result<Self> {
        let failed = |error| OperatorError::io("reading", &path, error);
        let metadata = std::fs::metadata(&path).map_err(failed)?;
        if metadata.is_dir() {
            return Err(OperatorError::new(format!(
                "{} is a folder; name its files with a pattern such as {}",
                path.display(),
                path.join("*.csv").display()
            )));
        }
        let handle = std::fs::File::open(&path).map_err(failed)?;
        let beginning = Beginning::of(&handle).map_err(failed)?;
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let compression = match extension.as_deref() {
            Some("gz" | "gzip") => Compression::Gzip,
            Some("zst" | "zstd") => {
                let mut head = vec![];
                handle.take(18).read_to_end(&mut head).map_err(failed)?;
                Compression::Zstd { window_bytes: window_bytes(&head).unwrap_or(1 << 10) }
            }
            _ => Compression::None,
        };
        Ok(Self { size: beginning.size(), compression, beginning, path })
    }

    /// Checks after a read through `handle` that it was of the file that was opened.
    ///
    /// # Errors
    ///
    /// [`CsvError::Shrunk`] or [`CsvError::Changed`].
    pub(crate) fn check(&self, handle: &std::fs::File) -> Result<()> {
        let since = self.beginning.since(handle);
        match since.map_err(|error| OperatorError::io("reading", &self.path, error))? {
            Since::Kept => Ok(()),
            Since::Shrunk { size } => {
                Err(CsvError::Shrunk { file: self.path.clone(), at: size, expected: self.size }.into())
            }
            Since::Changed => Err(CsvError::Changed { file: self.path.clone() }.into()),
        }
    }

    /// Heap bytes of the decoder, its input buffer included.
    pub(crate) fn decoder_bytes(&self) -> usize {
        match self.compression {
            Compression::None => 0,
            Compression::Gzip => INPUT_BYTES + GZIP_BYTES,
            Compression::Zstd { window_bytes } => INPUT_BYTES + ZSTD_BYTES + window_bytes,
        }
    }

    /// The file's text from its beginning, decoded.
    /// `memory` is asked for what it takes beyond [`File::decoder_bytes`].
    pub(crate) fn text(&self, memory: Option<&Account>) -> Result<Box<dyn Read + Send>> {
        let file = std::fs::File::open(&self.path).map_err(|error| OperatorError::io("reading", &self.path, error))?;
        let left = self.size;
        let input = BufReader::with_capacity(INPUT_BYTES, Watched { of: self.clone(), file, left });
        Ok(match self.compression {
            Compression::None => Box::new(input.into_inner()),
            Compression::Gzip if self.size == 0 => Box::new(io::empty()),
            Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
            Compression::Zstd { window_bytes } => Box::new(Frames::new(input, window_bytes, memory)),
        })
    }
}

/// A file that is read from its beginning, as far as it went when it was opened.
struct Watched {
    of: File,
    file: std::fs::File,
    left: u64,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.file.read(&mut buffer[..most])?;
        self.left -= length as u64;
        self.of.check(&self.file).map_err(io::Error::other)?;
        Ok(length)
    }
}

/// The window of the frame whose header `head` begins with, by RFC 8878; `None` if it is none.
fn window_bytes(head: &[u8]) -> Option<usize> {
    const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
    let header = head.strip_prefix(&MAGIC)?;
    let descriptor = *header.first()?;
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let window = *header.get(1)?;
        let base = 1_usize.checked_shl(10 + u32::from(window >> 3))?;
        return base.checked_add(base / 8 * usize::from(window & 7));
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = header.get(1 + dictionary..)?;
    let size = match descriptor >> 6 {
        0 => u64::from(*content.first()?),
        1 => u64::from(u16::from_le_bytes(content.get(..2)?.try_into().ok()?)) + 256,
        2 => u64::from(u32::from_le_bytes(content.get(..4)?.try_into().ok()?)),
        _ => u64::from_le_bytes(content.get(..8)?.try_into().ok()?),
    };
    usize::try_from(size).ok()
}

/// Bytes that tell a frame's window.
const FRAME_HEADER_BYTES: usize = 18;

type FrameInput = io::Chain<io::Cursor<Vec<u8>>, BufReader<Watched>>;

/// The frames of a zstd file, one behind the other. A frame with a larger window than the first one's is
/// decoded if memory for it is to be had.
struct Frames {
    decoder: Option<zstd::stream::read::Decoder<'static, FrameInput>>,
    /// Input behind the last frame, with what was read of it to look at the next one's header.
    input: Option<(Vec<u8>, BufReader<Watched>)>,
    floor_bytes: usize,
    growth: Option<Reservation>,
}

impl Frames {
    fn new(input: BufReader<Watched>, floor_bytes: usize, memory: Option<&Account>) -> Self {
        let growth = memory.map(Account::reservation);
        Self { decoder: None, input: Some((vec![], input)), floor_bytes, growth }
    }

    /// Begins the next frame; `false` if there is none.
    fn next_frame(&mut self) -> io::Result<bool> {
        let Some((mut head, mut input)) = self.input.take() else { return Ok(false) };
        let missing = FRAME_HEADER_BYTES.saturating_sub(head.len());
        (&mut input).take(missing as u64).read_to_end(&mut head)?;
        if head.is_empty() {
            return Ok(false);
        }
        let window = window_bytes(&head).unwrap_or(0).max(1 << 10);
        if let Some(growth) = &mut self.growth
            && !growth.try_set(window.saturating_sub(self.floor_bytes))
        {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("a zstd frame needs a window of {window} bytes; raise the memory limit"),
            ));
        }
        let mut decoder = zstd::stream::read::Decoder::with_buffer(io::Cursor::new(head).chain(input))?;
        // What zstd allows beyond its own default of 2^27 has been reserved.
        decoder.window_log_max(window.next_power_of_two().trailing_zeros().clamp(10, 31))?;
        self.decoder = Some(decoder.single_frame());
        Ok(true)
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(mut decoder) = self.decoder.take() {
                let length = decoder.read(buffer)?;
                if length > 0 || buffer.is_empty() {
                    self.decoder = Some(decoder);
                    return Ok(length);
                }
                let (head, input) = decoder.finish().into_inner();
                let at = usize::try_from(head.position()).unwrap_or(usize::MAX);
                let head = head.into_inner();
                self.input = Some((head.get(at..).unwrap_or_default().to_vec(), input));
            }
            if !self.next_frame()? {
                return Ok(0);
            }
        }
    }
}

/// Fills `buffer` as far as the text goes, and says how far that was.
pub(crate) fn read_full(text: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match text.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The files that paths and patterns name, looked at.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<File>> {
    paths::find(paths)?.into_iter().map(File::open).collect()
}

/// The name that errors and splits use.
pub(crate) fn short_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_pattern_names_its_files_in_order_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.csv", "a.csv", "c.txt"] {
            std::fs::write(folder.path().join(name), "x\n").expect("written");
        }
        let files = find(&[folder.path().join("*.csv")]).expect("found");
        assert_eq!(files.iter().map(|f| short_name(&f.path)).collect::<Vec<_>>(), ["a.csv", "b.csv"]);
        assert!(find(&[folder.path().join("*.tsv")]).expect_err("none").to_string().contains("no file matches"));
        assert!(find(&[folder.path().to_path_buf()]).expect_err("folder").to_string().contains("is a folder"));
        let missing = find(&[folder.path().join("no.csv")]).expect_err("none").to_string();
        assert!(missing.contains("no.csv"), "{missing}");
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let (gz, zst) = (folder.path().join("a.gz"), folder.path().join("a.zst"));
        let mut gzip = vec![];
        let mut frames = vec![];
        let long = "5,6\n".repeat(1 << 20);
        for part in ["a,b\n", "1,2\n", &long] {
            let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
            encoder.write_all(part.as_bytes()).expect("written");
            encoder.finish().expect("finished");
            frames.extend(zstd::encode_all(part.as_bytes(), 3).expect("encoded"));
            frames.extend(b"\x50\x2A\x4D\x18\x03\0\0\0abc");
        }
        std::fs::write(&gz, gzip).expect("written");
        std::fs::write(&zst, frames).expect("written");
        for path in [gz, zst] {
            let mut text = String::new();
            File::open(path).expect("there").text(None).expect("opened").read_to_string(&mut text).expect("decoded");
            assert!(text == format!("a,b\n1,2\n{long}"));
        }
    }

    #[test]
    fn the_window_of_a_frame_is_that_of_its_encoder() {
        let mut encoder = zstd::Encoder::new(vec![], 3).expect("an encoder");
        encoder.window_log(20).expect("set");
        encoder.write_all(&[7; 100_000]).expect("written");
        assert_eq!(window_bytes(&encoder.finish().expect("finished")), Some(1 << 20));
        let whole = zstd::bulk::compress(&[7; 100_000], 3).expect("encoded");
        assert_eq!(window_bytes(&whole), Some(100_000));
        assert_eq!(window_bytes(b"a,b\n"), None);
    }
}

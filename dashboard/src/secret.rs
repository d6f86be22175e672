//! Texts that only some may know, compared in a time that does not tell how much of a guess is right.

use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};

use crate::config::is_token;

/// A text to be known by some. Shown nowhere by accident.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    /// 128 bits from the system.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// A text that somebody chose, if it will do.
    pub(crate) fn given(text: &str) -> Option<Self> {
        is_token(text).then(|| Self(text.to_string()))
    }

    /// Whether `guess` is it. How long it takes depends on the length of the guess alone.
    pub(crate) fn is(&self, guess: &str) -> bool {
        let (secret, guess) = (self.0.as_bytes(), guess.as_bytes());
        let mut different = u8::from(secret.len() != guess.len());
        for (index, byte) in guess.iter().enumerate() {
            different |= black_box(byte ^ secret[index % secret.len()]);
        }
        black_box(different) == 0
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_text_is_it() {
        let secret = Secret::given("abcdefghijklmnop").expect("it will do");
        assert!(secret.is("abcdefghijklmnop"));
        let wrong =
            ["", "a", "abcdefghijklmno", "abcdefghijklmnopa", "abcdefghijklmnopabcdefghijklmnop", "Abcdefghijklmnop"];
        for guess in wrong {
            assert!(!secret.is(guess), "{guess}");
        }
        assert!(!format!("{secret:?}").contains("abc"));
    }

    #[test]
    fn texts_that_could_be_guessed_or_break_a_link_will_not_do() {
        for text in ["", "short", "has a space in it", "has&an-ampersand", "ünlike-a-token-it-is", &"x".repeat(300)] {
            assert!(Secret::given(text).is_none(), "{text}");
        }
        let (one, other) = (Secret::random().expect("random"), Secret::random().expect("random"));
        assert!(!one.is(other.text()) && is_token(one.text()));
    }
}

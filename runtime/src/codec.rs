//! Values as bytes and back: one byte of version, then bincode. Nothing else in the project names bincode,
//! so that it can be replaced here; bytes of another version are refused, never guessed at.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{OperatorError, Result};

/// First byte of everything that is encoded here.
pub const VERSION: u8 = 1;

/// A length inside hostile bytes may claim no more than this.
const MAX_DECODED_BYTES: usize = 1 << 30;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_DECODED_BYTES>()
}

/// `value` as bytes.
///
/// # Errors
///
/// What `value`'s own `Serialize` refuses.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = vec![VERSION];
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Appends `value` to `bytes` without a version byte, for many small values under one version.
///
/// # Errors
///
/// As for [`encode`].
pub fn encode_into<T: Serialize + ?Sized>(value: &T, bytes: &mut Vec<u8>) -> Result<()> {
    bincode::serde::encode_into_std_write(value, bytes, config()).map_err(OperatorError::other)?;
    Ok(())
}

/// The value that [`encode`] made `bytes` of.
///
/// # Errors
///
/// If `bytes` have another version, are cut short, too long, or no `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => decode_exact(rest),
        Some((version, _)) => Err(OperatorError::new(format!("encoded with version {version}, not {VERSION}"))),
        None => Err(OperatorError::new("nothing to decode")),
    }
}

/// The value that [`encode_into`] appended, from exactly its bytes.
///
/// # Errors
///
/// As for [`decode`].
pub fn decode_exact<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, config()).map_err(OperatorError::other)?;
    if read == bytes.len() {
        Ok(value)
    } else {
        Err(OperatorError::new(format!("{} bytes left over after decoding", bytes.len() - read)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_anything_else_is_refused() {
        let value = (7_u64, "text".to_owned(), vec![Some(1.5_f64), None]);
        let bytes = encode(&value).expect("plain data");
        assert_eq!(bytes[0], VERSION);
        assert_eq!(decode::<(u64, String, Vec<Option<f64>>)>(&bytes).expect("as written"), value);
        for cut in 0..bytes.len() {
            assert!(decode::<(u64, String, Vec<Option<f64>>)>(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<(u64, String, Vec<Option<f64>>)>(&longer).is_err());
        let mut newer = bytes;
        newer[0] = VERSION + 1;
        assert!(decode::<(u64, String, Vec<Option<f64>>)>(&newer).is_err());
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let bytes = [VERSION, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<Vec<u64>>(&bytes).is_err());
        assert!(decode::<String>(&bytes).is_err());
    }
}

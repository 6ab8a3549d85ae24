//! Reading and writing of variable-length fields, for everything that is not a fixed header.

use alloc::vec::Vec;

use crate::pool::{Draft, Full};

/// Bytes that are not what their format says. Never an assertion: they come from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes fields from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Fails when bytes are left over: a format says everything.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_le_bytes)
    }

    /// Bytes behind a one-byte length.
    pub fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// Text behind a one-byte length.
    pub fn short_str(&mut self) -> Result<&'a str, Malformed> {
        core::str::from_utf8(self.short()?).map_err(|_| Malformed)
    }

    /// Bytes behind a four-byte length.
    pub fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

/// Somewhere to write fields to: a `Vec`, which is never full, or a [`Draft`].
pub trait Put {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full>;

    fn put_u8(&mut self, value: u8) -> Result<(), Full> {
        self.put(&[value])
    }
    fn put_u16(&mut self, value: u16) -> Result<(), Full> {
        self.put(&value.to_le_bytes())
    }
    fn put_u32(&mut self, value: u32) -> Result<(), Full> {
        self.put(&value.to_le_bytes())
    }
    fn put_u64(&mut self, value: u64) -> Result<(), Full> {
        self.put(&value.to_le_bytes())
    }
    fn put_u128(&mut self, value: u128) -> Result<(), Full> {
        self.put(&value.to_le_bytes())
    }
    /// At most 255 bytes behind a one-byte length; longer is `Full`.
    fn put_short(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.put_u8(u8::try_from(bytes.len()).map_err(|_| Full)?)?;
        self.put(bytes)
    }
    fn put_long(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.put_u32(u32::try_from(bytes.len()).map_err(|_| Full)?)?;
        self.put(bytes)
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Put for Draft {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.extend(bytes)
    }
}

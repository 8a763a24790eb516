//! Lines of a file or of standard input, none of which is kept longer than it may be.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Rejected lines that are printed; the others are only counted.
pub(crate) const REJECTS_SHOWN: u64 = 20;

/// Reads a line of any length but keeps no more than `most` bytes and one. Answers with its true
/// length; None at the end.
pub(crate) async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    most: usize,
) -> std::io::Result<Option<usize>> {
    line.clear();
    let mut length = 0;
    loop {
        let chunk = input.fill_buf().await?;
        if chunk.is_empty() {
            return Ok((length > 0).then_some(length));
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        let room = (most + 1).saturating_sub(line.len());
        line.extend_from_slice(&chunk[..taken.min(room)]);
        length += taken;
        input.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(length));
        }
    }
}

//! Frames between the monitor and attached clients: type, length (4 bytes, little-endian), payload.

/// Longest payload of a frame in bytes, so that neither side can make the other hold more.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Bytes before the payload.
const HEADER_BYTES: usize = 5;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// To the process.
    Stdin(Vec<u8>),
    /// Nothing more comes for the process.
    StdinEnd,
    /// The client's terminal has this size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Send the process a signal.
    Signal(u32),
    /// From the process.
    Stdout(Vec<u8>),
    /// From the process.
    Stderr(Vec<u8>),
    /// The process ended with this code; text says why when it was not by itself.
    Exit {
        /// Exit code.
        code: u32,
        /// Reason; often empty.
        error: String,
    },
}

/// The bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadFrame;

/// Appends a frame's bytes; payloads past the bound are cut into several frames.
pub(crate) fn encode(out: &mut Vec<u8>, frame: &Frame) {
    match frame {
        Frame::Stdin(bytes) => put_chunks(out, 0, bytes),
        Frame::StdinEnd => put(out, 1, &[]),
        Frame::Resize { rows, columns } => {
            let ([a, b], [c, d]) = (rows.to_le_bytes(), columns.to_le_bytes());
            put(out, 2, &[a, b, c, d]);
        }
        Frame::Signal(signal) => put(out, 3, &signal.to_le_bytes()),
        Frame::Stdout(bytes) => put_chunks(out, 16, bytes),
        Frame::Stderr(bytes) => put_chunks(out, 17, bytes),
        Frame::Exit { code, error } => {
            let mut payload = code.to_le_bytes().to_vec();
            payload.extend(error.bytes().take(PAYLOAD_BYTES_MAX - 4));
            put(out, 18, &payload);
        }
    }
}

/// Appends output frames without building a [`Frame`].
pub(crate) fn encode_output(out: &mut Vec<u8>, stderr: bool, bytes: &[u8]) {
    put_chunks(out, if stderr { 17 } else { 16 }, bytes);
}

fn put_chunks(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    for chunk in bytes.chunks(PAYLOAD_BYTES_MAX) {
        put(out, kind, chunk);
    }
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or_default()
            .to_le_bytes(),
    );
    out.extend_from_slice(payload);
}

/// Takes the first whole frame out of `buffer`; `None` when more bytes are needed.
///
/// # Errors
///
/// For an unknown type or a wrong length; the connection is then of no use.
pub(crate) fn decode(buffer: &mut Vec<u8>) -> Result<Option<Frame>, BadFrame> {
    let Some(header) = buffer.get(..HEADER_BYTES) else {
        return Ok(None);
    };
    let kind = header.first().copied().ok_or(BadFrame)?;
    let length = header
        .get(1..)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes);
    let length = length
        .and_then(|l| usize::try_from(l).ok())
        .ok_or(BadFrame)?;
    if length > PAYLOAD_BYTES_MAX {
        return Err(BadFrame);
    }
    let Some(payload) = buffer.get(HEADER_BYTES..HEADER_BYTES + length) else {
        return Ok(None);
    };
    let frame = parse(kind, payload)?;
    buffer.drain(..HEADER_BYTES + length);
    Ok(Some(frame))
}

fn parse(kind: u8, payload: &[u8]) -> Result<Frame, BadFrame> {
    let number = |bytes: &[u8]| {
        bytes
            .try_into()
            .map(u32::from_le_bytes)
            .map_err(|_| BadFrame)
    };
    match kind {
        0 => Ok(Frame::Stdin(payload.to_vec())),
        1 => Ok(Frame::StdinEnd),
        2 => match *payload {
            [a, b, c, d] => Ok(Frame::Resize {
                rows: u16::from_le_bytes([a, b]),
                columns: u16::from_le_bytes([c, d]),
            }),
            _ => Err(BadFrame),
        },
        3 => Ok(Frame::Signal(number(payload)?)),
        16 => Ok(Frame::Stdout(payload.to_vec())),
        17 => Ok(Frame::Stderr(payload.to_vec())),
        18 => {
            let (code, error) = payload.split_at_checked(4).ok_or(BadFrame)?;
            let error = String::from_utf8_lossy(error).into_owned();
            Ok(Frame::Exit {
                code: number(code)?,
                error,
            })
        }
        _ => Err(BadFrame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_way_in_any_pieces() {
        let frames = [
            Frame::Stdin(b"abc".to_vec()),
            Frame::StdinEnd,
            Frame::Resize {
                rows: 24,
                columns: 300,
            },
            Frame::Signal(15),
            Frame::Stdout(Vec::from([0, 255])),
            Frame::Stderr(b"x".to_vec()),
            Frame::Exit {
                code: 137,
                error: "why".to_owned(),
            },
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| encode(&mut bytes, frame));
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        for byte in bytes {
            buffer.push(byte);
            seen.extend(decode(&mut buffer).unwrap());
        }
        assert_eq!(seen, frames);
        assert!(buffer.is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let cases: [&[u8]; 4] = [
            &[9, 0, 0, 0, 0],
            &[0, 1, 0, 1, 0],
            &[2, 1, 0, 0, 0, 7],
            &[18, 0, 0, 0, 0],
        ];
        for case in cases {
            assert_eq!(decode(&mut case.to_vec()), Err(BadFrame), "input {case:?}");
        }
    }
}

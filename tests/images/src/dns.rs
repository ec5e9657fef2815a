//! As much of DNS as a stock client needs to see who answers it: every question is answered with the host name as a text.

/// Bytes of the header.
const HEADER_BYTES: usize = 12;
/// A pointer to the name in the question.
const NAME_OF_QUESTION: [u8; 2] = [0xc0, HEADER_BYTES as u8];
const TYPE_TXT: [u8; 2] = [0, 16];
const CLASS_IN: [u8; 2] = [0, 1];

/// The answer to a query; `None` if the datagram is none.
pub(crate) fn answer(query: &[u8], hostname: &str) -> Option<Vec<u8>> {
    let header = query.get(..HEADER_BYTES)?;
    // A standard query with one question.
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let mut end = HEADER_BYTES;
    loop {
        match *query.get(end)? {
            0 => break,
            length if length < 64 => end += 1 + usize::from(length),
            _ => return None,
        }
    }
    let question = query.get(HEADER_BYTES..end + 1 + 4)?;
    // Host names have 64 bytes at most.
    let text_bytes = u8::try_from(hostname.len()).ok()?;
    let mut answer = header[..2].to_vec();
    // Response, recursion desired and available; one question, one answer.
    answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(question);
    answer.extend(NAME_OF_QUESTION);
    answer.extend(TYPE_TXT);
    answer.extend(CLASS_IN);
    answer.extend([0; 4]);
    answer.extend((u16::from(text_bytes) + 1).to_be_bytes());
    answer.push(text_bytes);
    answer.extend(hostname.as_bytes());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_and_nothing_else() {
        let query = b"\xab\xcd\x01\x20\0\x01\0\0\0\0\0\x01\x03who\0\0\x10\0\x01additional";
        let expect = b"\xab\xcd\x81\x80\0\x01\0\x01\0\0\0\0\x03who\0\0\x10\0\x01\
                       \xc0\x0c\0\x10\0\x01\0\0\0\0\0\x04\x03web";
        assert_eq!(answer(query, "web").as_deref(), Some(&expect[..]));
        for other in [
            &b"hostname"[..],
            b"",
            &query[..20],
            b"\xab\xcd\x81\x20\0\x01\0\0\0\0\0\x01\x03who\0\0\x10\0\x01",
            b"\xab\xcd\x01\x20\0\x01\0\0\0\0\0\x01\xc0who\0\0\x10\0\x01",
            b"\xab\xcd\x01\x20\0\x02\0\0\0\0\0\x01\x03who\0\0\x10\0\x01",
        ] {
            assert_eq!(answer(other, "web"), None, "{other:?}");
        }
    }
}

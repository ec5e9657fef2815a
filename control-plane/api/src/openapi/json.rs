//! A JSON writer that knows where commas go.

use std::io::Write as _;

/// JSON text in the making. Values are written in the order of the calls; objects and arrays nest as closures do.
#[derive(Default)]
pub(super) struct Json {
    out: Vec<u8>,
    /// The next value or key follows another one.
    comma: bool,
}

impl Json {
    /// `{…}`; the closure writes keys, each followed by one value.
    pub(super) fn object(&mut self, members: impl FnOnce(&mut Self)) {
        self.nested(b'{', members, b'}');
    }

    /// `[…]`; the closure writes values.
    pub(super) fn array(&mut self, elements: impl FnOnce(&mut Self)) {
        self.nested(b'[', elements, b']');
    }

    /// The key of the member whose value comes next.
    pub(super) fn key(&mut self, name: &str) -> &mut Self {
        self.string(name);
        self.out.push(b':');
        self.comma = false;
        self
    }

    /// A string.
    pub(super) fn string(&mut self, text: &str) {
        self.separate();
        self.out.push(b'"');
        self.escaped(text);
        self.out.push(b'"');
    }

    /// A string of two pieces.
    pub(super) fn joined(&mut self, prefix: &str, rest: &str) {
        self.separate();
        self.out.push(b'"');
        self.escaped(prefix);
        self.escaped(rest);
        self.out.push(b'"');
    }

    /// Something that is JSON already.
    pub(super) fn raw(&mut self, json: &str) {
        self.separate();
        self.out.extend_from_slice(json.as_bytes());
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.out.shrink_to_fit();
        self.out
    }

    fn nested(&mut self, open: u8, content: impl FnOnce(&mut Self), close: u8) {
        self.separate();
        self.out.push(open);
        self.comma = false;
        content(self);
        self.out.push(close);
        self.comma = true;
    }

    fn separate(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = true;
    }

    fn escaped(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
                // Writing to a Vec cannot fail.
                0..0x20 => drop(write!(self.out, "\\u{byte:04x}")),
                _ => self.out.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_escapes() {
        let mut json = Json::default();
        json.object(|json| {
            json.key("a").array(|json| {
                json.string("x\"\\\n");
                json.object(|_| ());
                json.raw("1");
            });
            json.key("b").joined("é", "/");
            json.key("c").array(|_| ());
        });
        let text = String::from_utf8(json.into_bytes()).unwrap();
        assert_eq!(text, r#"{"a":["x\"\\\u000a",{},1],"b":"é/","c":[]}"#);
    }
}

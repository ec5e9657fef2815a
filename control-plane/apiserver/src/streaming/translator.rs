//! Remote commands: a client's WebSocket channels on one side, a kubelet's SPDY streams on the other.
//!
//! The first byte of a WebSocket message is its channel. The status of the command goes to the client last, after all
//! of its output, whatever order the kubelet sent them in.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::spdy::{DATA_BYTES_MAX, Decoder, Encoder, Frame};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the next byte is a channel whose end has come.
const CLOSE: u8 = 255;

/// How much of a status is kept.
const STATUS_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// Which streams the client asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

impl Streams {
    /// Channel, SPDY stream and its type, in the order that kubelets expect.
    fn list(self) -> Vec<(u8, u32, &'static str)> {
        let wanted = [
            (true, ERROR, "error"),
            (self.stdin, STDIN, "stdin"),
            (self.stdout, STDOUT, "stdout"),
            (self.stderr, STDERR, "stderr"),
            (self.tty, RESIZE, "resize"),
        ];
        let opened = wanted.into_iter().filter(|(wanted, ..)| *wanted);
        // Streams that a client opens have odd numbers.
        opened
            .zip((1..).step_by(2))
            .map(|((_, channel, kind), stream)| (channel, stream, kind))
            .collect()
    }
}

/// Runs until the command has ended or either side is gone.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    client: WebSocketStream<S>,
    kubelet: impl AsyncRead + AsyncWrite + Send + 'static,
    streams: Streams,
) -> Result<(), String> {
    let (mut to_client, mut from_client) = client.split();
    let (from_kubelet, mut to_kubelet) = tokio::io::split(kubelet);
    let list = streams.list();
    let mut encoder = Encoder::new().map_err(|error| error.to_string())?;
    for (_, stream, kind) in &list {
        let frame = encoder
            .syn_stream(*stream, &[("streamtype", kind)])
            .map_err(|error| error.to_string())?;
        to_kubelet
            .write_all(&frame)
            .await
            .map_err(|error| error.to_string())?;
    }
    to_kubelet.flush().await.map_err(|error| error.to_string())?;

    let stream_of = |channel: u8| {
        list.iter()
            .find(|(own, ..)| *own == channel)
            .map(|(_, stream, _)| *stream)
    };
    let (pings, mut pinged) = mpsc::channel::<u32>(4);
    let up = async {
        loop {
            let message = tokio::select! {
                message = from_client.next() => message,
                Some(id) = pinged.recv() => {
                    write(&mut to_kubelet, &Encoder::ping(id)).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            match message.map_err(|error| error.to_string())? {
                Message::Binary(bytes) => {
                    for frame in frames_of(&bytes, &stream_of) {
                        write(&mut to_kubelet, &frame).await?;
                    }
                }
                // The Python client sends text as text; the first character is the channel all the same.
                Message::Text(text) => {
                    for frame in frames_of(text.as_bytes(), &stream_of) {
                        write(&mut to_kubelet, &frame).await?;
                    }
                }
                Message::Close(_) => return Ok::<_, String>(()),
                _ => {}
            }
        }
    };
    let down = pump(from_kubelet, &mut to_client, &list, pings);
    let ended = tokio::select! {
        ended = up => {
            // The client is gone: with the connection the command ends too.
            return ended;
        }
        ended = down => ended,
    };
    let (code, status) = match &ended {
        Ok(status) => (CloseCode::Normal, status.clone()),
        Err(error) => (CloseCode::Error, internal_status(error)),
    };
    if !status.is_empty() {
        let _ = to_client.send(Message::Binary(on_channel(ERROR, &status))).await;
    }
    let _ = to_client
        .send(Message::Close(Some(CloseFrame {
            code,
            reason: "".into(),
        })))
        .await;
    let _ = to_client.close().await;
    let _ = to_kubelet.shutdown().await;
    ended.map(drop)
}

/// Passes output on until the command has ended; returns its status.
async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    mut from_kubelet: impl AsyncRead + Unpin,
    to_client: &mut SplitSink<WebSocketStream<S>, Message>,
    list: &[(u8, u32, &'static str)],
    pings: mpsc::Sender<u32>,
) -> Result<Vec<u8>, String> {
    let channel_of = |stream: u32| {
        list.iter()
            .find(|(_, own, _)| *own == stream)
            .map(|(channel, ..)| *channel)
    };
    let outputs = list
        .iter()
        .filter(|(channel, ..)| matches!(*channel, STDOUT | STDERR | ERROR));
    let mut open: Vec<u32> = outputs.map(|(_, stream, _)| *stream).collect();
    let mut decoder = Decoder::default();
    let mut status = Vec::new();
    while !open.is_empty() {
        let Some(frame) = decoder.next().map_err(|error| error.to_string())? else {
            decoder.buffer().reserve(READ_BYTES);
            match from_kubelet.read_buf(decoder.buffer()).await {
                // Runtimes close the connection when the command has ended.
                Ok(0) => break,
                Ok(_) => continue,
                Err(_) if !status.is_empty() => break,
                Err(error) => return Err(error.to_string()),
            }
        };
        match frame {
            Frame::Data { stream, fin, payload } => {
                match channel_of(stream) {
                    Some(ERROR) => {
                        let room = STATUS_BYTES_MAX.saturating_sub(status.len());
                        status.extend_from_slice(&payload[..payload.len().min(room)]);
                    }
                    Some(channel @ (STDOUT | STDERR)) if !payload.is_empty() => {
                        let message = Message::Binary(on_channel(channel, &payload));
                        to_client.send(message).await.map_err(|error| error.to_string())?;
                    }
                    _ => {}
                }
                if fin {
                    open.retain(|own| *own != stream);
                }
            }
            Frame::Reply { stream, fin: true } | Frame::Reset { stream } => open.retain(|own| *own != stream),
            Frame::Ping { id } if id % 2 == 0 => {
                let _ = pings.try_send(id);
            }
            Frame::GoAway => break,
            Frame::Reply { .. } | Frame::Ping { .. } | Frame::Other => {}
        }
    }
    Ok(status)
}

/// What a client's message becomes on the kubelet's side.
fn frames_of(message: &[u8], stream_of: &impl Fn(u8) -> Option<u32>) -> Vec<Vec<u8>> {
    match message.split_first() {
        Some((&CLOSE, [channel, ..])) => stream_of(*channel)
            .map(|stream| Encoder::data(stream, &[], true))
            .into_iter()
            .collect(),
        Some((channel @ (&STDIN | &RESIZE), payload)) => match stream_of(*channel) {
            Some(stream) => payload
                .chunks(DATA_BYTES_MAX)
                .map(|part| Encoder::data(stream, part, false))
                .collect(),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), String> {
    to.write_all(bytes).await.map_err(|error| error.to_string())?;
    to.flush().await.map_err(|error| error.to_string())
}

fn on_channel(channel: u8, payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(payload.len() + 1);
    message.put_u8(channel);
    message.put_slice(payload);
    message.freeze()
}

fn internal_status(error: &str) -> Vec<u8> {
    api::status::internal_error(error)
        .to_value()
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::DuplexStream, task::JoinHandle};
    use tokio_tungstenite::tungstenite::protocol::Role;

    const ALL: Streams = Streams {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };

    #[test]
    fn streams_are_numbered_in_order() {
        let kinds: Vec<_> = ALL
            .list()
            .into_iter()
            .map(|(_, stream, kind)| (stream, kind))
            .collect();
        assert_eq!(kinds, [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")]);
        let terminal = Streams {
            stderr: false,
            tty: true,
            ..ALL
        };
        assert_eq!(terminal.list().last(), Some(&(RESIZE, 7, "resize")));
    }

    #[test]
    fn messages_become_frames() {
        let list = ALL.list();
        let stream_of = |channel: u8| {
            list.iter()
                .find(|(own, ..)| *own == channel)
                .map(|(_, stream, _)| *stream)
        };
        assert_eq!(
            frames_of(b"\x00hi", &stream_of),
            vec![Encoder::data(3, b"hi", false)]
        );
        assert_eq!(
            frames_of(&[CLOSE, STDIN], &stream_of),
            vec![Encoder::data(3, b"", true)]
        );
        // Output channels are the kubelet's, unknown ones nobody's.
        for message in [&b"\x01x"[..], b"\x07x", b"", &[CLOSE]] {
            assert!(frames_of(message, &stream_of).is_empty());
        }
        let large = [&[STDIN][..], &vec![b'x'; DATA_BYTES_MAX * 2 + 1]].concat();
        assert_eq!(frames_of(&large, &stream_of).len(), 3);
    }

    /// A WebSocket client on one end, a SPDY peer's raw connection on the other, the translator between them.
    async fn session() -> (
        WebSocketStream<DuplexStream>,
        DuplexStream,
        JoinHandle<Result<(), String>>,
    ) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (kubelet, peer) = tokio::io::duplex(64 * 1024);
        let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        let running = tokio::spawn(run(server, kubelet, ALL));
        (
            WebSocketStream::from_raw_socket(near, Role::Client, None).await,
            peer,
            running,
        )
    }

    async fn next_frame(decoder: &mut Decoder, peer: &mut DuplexStream) -> Frame {
        loop {
            if let Some(frame) = decoder.next().unwrap() {
                return frame;
            }
            assert_ne!(
                peer.read_buf(decoder.buffer()).await.unwrap(),
                0,
                "the connection ended"
            );
        }
    }

    #[tokio::test]
    async fn a_command_from_its_input_to_its_status() {
        let (mut client, mut peer, running) = session().await;
        let mut decoder = Decoder::default();
        for _ in ALL.list() {
            assert_eq!(next_frame(&mut decoder, &mut peer).await, Frame::Other);
        }
        client
            .send(Message::Binary(Bytes::from_static(b"\x00in")))
            .await
            .unwrap();
        client
            .send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN])))
            .await
            .unwrap();
        let input = Frame::Data {
            stream: 3,
            fin: false,
            payload: Bytes::from_static(b"in"),
        };
        assert_eq!(next_frame(&mut decoder, &mut peer).await, input);
        let end = Frame::Data {
            stream: 3,
            fin: true,
            payload: Bytes::new(),
        };
        assert_eq!(next_frame(&mut decoder, &mut peer).await, end);
        peer.write_all(&Encoder::ping(2)).await.unwrap();
        assert_eq!(next_frame(&mut decoder, &mut peer).await, Frame::Ping { id: 2 });

        // The status comes first here; the client gets it last.
        for frame in [
            Encoder::data(1, br#"{"status":"Success"}"#, true),
            Encoder::data(7, b"err", true),
            Encoder::data(5, b"out", false),
            Encoder::data(5, b"", true),
        ] {
            peer.write_all(&frame).await.unwrap();
        }
        let mut messages = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            messages.push(message);
        }
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        assert_eq!(
            messages[..3],
            [
                binary(b"\x02err"),
                binary(b"\x01out"),
                binary(b"\x03{\"status\":\"Success\"}")
            ]
        );
        assert!(matches!(messages[3], Message::Close(Some(ref frame)) if frame.code == CloseCode::Normal));
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_goes_takes_the_connection_along() {
        let (client, mut peer, running) = session().await;
        drop(client);
        running.await.unwrap().unwrap_err();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
    }
}

//! Reading a log file: from the right place, across rotation, until there is no more to come.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::mpsc::Sender};

use super::{LogOptions, decoder::Decoder};

/// Read at once; also the most that one follower holds besides what is on its way to the client.
const CHUNK_BYTES: usize = 16 << 10;
/// Searched at once when looking for the last lines.
const BLOCK_BYTES: u64 = 4096;

/// An opened log, positioned where the options say.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: tokio::fs::File,
    options: LogOptions,
    changes: Option<Changes>,
}

impl Reader {
    /// Opens the log. The error is for the user.
    pub(super) async fn open(path: PathBuf, options: LogOptions) -> Result<Self, String> {
        let (open_path, tail, follow) = (path.clone(), options.tail_lines, options.follow);
        let opened = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let real = open_path.canonicalize()?;
            // Watched before it is read, so that nothing written in between is missed.
            let changes = if follow {
                Some(Changes::of_directory(&real)?)
            } else {
                None
            };
            let mut file = File::open(&real)?;
            if let Some(lines) = tail {
                let start = tail_start(&mut file, lines)?;
                file.seek(SeekFrom::Start(start))?;
            }
            Ok((real, file, changes))
        })
        .await;
        let (real, file, changes) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(format!("failed to open log file \"{}\": {error}", path.display())),
            Err(join) => return Err(join.to_string()),
        };
        Ok(Self {
            path: real,
            file: tokio::fs::File::from_std(file),
            options,
            changes,
        })
    }

    /// Sends the log until its end: of the file, of `limitBytes`, of the container, or of the client's interest.
    pub(super) async fn run(mut self, exit: BoxFuture<'static, ()>, sender: Sender<Bytes>) -> io::Result<()> {
        let mut decoder = Decoder::new(&self.options);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut exit = exit;
        let mut exited = !self.options.follow;
        let mut next: Option<tokio::fs::File> = None;
        loop {
            if !self.drain(&mut decoder, &mut chunk, &sender).await? {
                return Ok(());
            }
            if let Some(next) = next.take() {
                // The old file has been read once more after the new one appeared: that was all of it.
                self.file = next;
                continue;
            }
            next = self.rotated().await?;
            if next.is_some() {
                continue;
            }
            if exited {
                break;
            }
            let Some(changes) = &mut self.changes else {
                break;
            };
            tokio::select! {
                changed = changes.wait() => changed?,
                () = &mut exit => exited = true,
                () = sender.closed() => return Ok(()),
            }
        }
        let mut out = Vec::new();
        decoder.finish(&mut out);
        if !out.is_empty() {
            // A client that left does not miss it.
            let _ = sender.send(out.into()).await;
        }
        Ok(())
    }

    /// Sends everything there is now; false when nobody wants more.
    async fn drain(
        &mut self,
        decoder: &mut Decoder,
        chunk: &mut [u8],
        sender: &Sender<Bytes>,
    ) -> io::Result<bool> {
        loop {
            let length = self.file.read(chunk).await?;
            if length == 0 {
                return Ok(true);
            }
            let mut out = Vec::new();
            decoder.feed(&chunk[..length], &mut out);
            if !out.is_empty() && sender.send(out.into()).await.is_err() {
                return Ok(false);
            }
            if decoder.is_done() {
                return Ok(false);
            }
        }
    }

    /// The file that took this one's name, when there is one.
    async fn rotated(&self) -> io::Result<Option<tokio::fs::File>> {
        if !self.options.follow {
            return Ok(None);
        }
        let current = self.file.metadata().await?;
        match fs::metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) != (current.dev(), current.ino()) => {
                match tokio::fs::File::open(&self.path).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    file => file.map(Some),
                }
            }
            Ok(_) => Ok(None),
            // Between the rename and the new file; or the pod is gone and its last lines are in our hands.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Notifications of writes and renames in a log's directory.
#[derive(Debug)]
struct Changes {
    /// An inotify descriptor: tokio reads it as it would read a pipe.
    inotify: pipe::Receiver,
}

impl Changes {
    /// The directory rather than the file: rotation replaces the file.
    fn of_directory(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let directory = file.parent().unwrap_or(file);
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(directory, events)?;
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        Ok(Self {
            inotify: pipe::Receiver::from_owned_fd_unchecked(descriptor)?,
        })
    }

    /// Waits for at least one change. Which one it was does not matter, the file tells.
    async fn wait(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.inotify.read(&mut events).await.map(drop)
    }
}

/// Where the last `lines` lines begin. Reads blocks from the end until it has seen enough of them.
fn tail_start(file: &mut (impl Read + Seek), lines: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut newlines_left = lines;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        block.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The newline before the wanted lines is one more than they have themselves.
            if newlines_left == 0 {
                return Ok(start + index as u64 + 1);
            }
            newlines_left -= 1;
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Cursor, Write},
        time::Duration,
    };

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[test]
    fn tails() {
        let line = |number: usize| format!("line {number} {}\n", "x".repeat(number % 50));
        let text: String = (0..1000).map(line).collect();
        for lines in [0_usize, 1, 2, 10, 500, 999, 1000, 5000] {
            let expect: String = (1000_usize.saturating_sub(lines)..1000).map(line).collect();
            let start = tail_start(&mut Cursor::new(&text), lines as u64).expect("in memory");
            assert_eq!(&text[usize::try_from(start).expect("small")..], expect, "{lines}");
        }
        assert_eq!(tail_start(&mut Cursor::new(""), 5).expect("in memory"), 0);
        // A line without an end comes on top of the whole ones.
        assert_eq!(tail_start(&mut Cursor::new("a\nb\nc"), 1).expect("in memory"), 2);
        assert_eq!(tail_start(&mut Cursor::new("a\nb\nc"), 0).expect("in memory"), 4);
    }

    fn entry(text: &str) -> String {
        format!("2026-01-01T00:00:01Z stdout F {text}\n")
    }

    async fn expect(chunks: &mut mpsc::Receiver<Bytes>, text: &str) {
        let mut got = Vec::new();
        while got.len() < text.len() {
            let chunk = tokio::time::timeout(Duration::from_secs(30), chunks.recv()).await;
            got.extend_from_slice(&chunk.expect("within 30 s").expect("not the end yet"));
        }
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    #[tokio::test]
    async fn follows_across_rotation_to_the_containers_end() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = File::create(&path).expect("create");
        for text in ["one", "two", "three"] {
            log.write_all(entry(text).as_bytes()).expect("write");
        }
        let options = LogOptions {
            follow: true,
            tail_lines: Some(2),
            ..Default::default()
        };
        let reader = Reader::open(path.clone(), options).await.expect("open");
        let (sender, mut chunks) = mpsc::channel(4);
        let (exit, exited) = oneshot::channel::<()>();
        let running = tokio::spawn(reader.run(
            Box::pin(async move {
                let _ = exited.await;
            }),
            sender,
        ));
        expect(&mut chunks, "two\nthree\n").await;
        let (begin, end) = (entry("four"), "");
        log.write_all(&begin.as_bytes()[..30]).expect("half a line");
        log.write_all(&begin.as_bytes()[30..]).expect("the other half");
        expect(&mut chunks, &format!("four\n{end}")).await;

        fs::rename(&path, dir.path().join("0.log.20260101-000000")).expect("rotate");
        log.write_all(entry("still in the old one").as_bytes())
            .expect("write");
        let mut log = File::create(&path).expect("the new one");
        log.write_all(entry("five").as_bytes()).expect("write");
        expect(&mut chunks, "still in the old one\nfive\n").await;

        log.write_all(entry("last words").as_bytes()).expect("write");
        exit.send(()).expect("the reader waits for it");
        expect(&mut chunks, "last words\n").await;
        assert_eq!(chunks.recv().await, None, "ends with the container");
        running.await.expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn reads_what_is_there_and_stops() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        fs::write(&path, entry("one") + &entry("two")).expect("write");
        let options = LogOptions {
            limit_bytes: Some(6),
            ..Default::default()
        };
        let reader = Reader::open(path.clone(), options).await.expect("open");
        let (sender, mut chunks) = mpsc::channel(4);
        reader
            .run(Box::pin(std::future::pending()), sender)
            .await
            .expect("read");
        expect(&mut chunks, "one\ntw").await;
        assert_eq!(chunks.recv().await, None);

        let error = Reader::open(dir.path().join("absent"), LogOptions::default())
            .await
            .expect_err("absent");
        assert!(error.starts_with("failed to open log file"), "{error}");
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_reading() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        fs::write(&path, "").expect("write");
        let options = LogOptions {
            follow: true,
            ..Default::default()
        };
        let reader = Reader::open(path, options).await.expect("open");
        let (sender, chunks) = mpsc::channel(4);
        let running = tokio::spawn(reader.run(Box::pin(std::future::pending()), sender));
        drop(chunks);
        tokio::time::timeout(Duration::from_secs(30), running)
            .await
            .expect("ends")
            .expect("no panic")
            .expect("no error");
    }
}

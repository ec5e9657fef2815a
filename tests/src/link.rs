//! A network link that can be slow or cut: a relay in front of a listening port.
//!
//! What is on its way while a link is cut waits, as segments do that TCP sends again and again; nothing is lost, reordered or
//! closed by the relay. New connections are taken and wait likewise.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// What a link does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// It passes it on.
    Good,
    /// Every piece waits so long before it is passed on.
    Slow(Duration),
    /// It keeps it for later.
    Cut,
    /// The link is no more.
    Gone,
}

/// A link to one port of this machine. Dropping it ends what went over it.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    quality: Mutex<Quality>,
    changed: Condvar,
    to: SocketAddr,
}

impl Link {
    /// Listens on `port` of the loopback address, for what is to get to port `to`.
    ///
    /// # Errors
    /// The port is taken.
    pub fn new(port: u16, to: u16) -> Result<Link> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(at(port)).with_context(|| format!("listen on port {port}"))?;
        let shared = Arc::new(Shared {
            quality: Mutex::new(Quality::Good),
            changed: Condvar::new(),
            to: at(to),
        });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Ok(Link {
            shared,
            address: at(port),
        })
    }

    /// Makes it better or worse, from now on.
    pub fn set(&self, quality: Quality) {
        *self.shared.lock() = quality;
        self.shared.changed.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.set(Quality::Gone);
        // Wakes the thread that accepts; when it cannot be reached it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Quality> {
        self.quality.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the link is cut, then for as long as it is slow; whether there is a link still.
    fn pass(&self) -> bool {
        let usable = self
            .changed
            .wait_while(self.lock(), |quality| *quality == Quality::Cut);
        let quality = *usable.unwrap_or_else(PoisonError::into_inner);
        if let Quality::Slow(wait) = quality {
            thread::sleep(wait);
        }
        quality != Quality::Gone
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for connection in listener.incoming() {
            if *self.lock() == Quality::Gone {
                return;
            }
            let shared = self.clone();
            if let Ok(near) = connection {
                thread::spawn(move || shared.join(&near));
            }
        }
    }

    /// Passes on both ways, until one side closes.
    fn join(self: Arc<Self>, near: &TcpStream) {
        if !self.pass() {
            return;
        }
        // Whoever is refused there is refused here: the connection closes.
        let Ok(far) = TcpStream::connect(self.to) else {
            return;
        };
        thread::scope(|scope| {
            scope.spawn(|| self.pump(near, &far));
            self.pump(&far, near);
        });
    }

    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut piece = vec![0; 64 << 10];
        loop {
            match from.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(length) if self.pass() && to.write_all(&piece[..length]).is_ok() => {}
                Ok(_) => break,
            }
        }
        // One of them is closed already, or both.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::free_port;

    #[test]
    fn what_a_cut_link_keeps_arrives_when_it_is_mended() {
        let (port, to) = (free_port(), free_port());
        let listener = TcpListener::bind(("127.0.0.1", to)).unwrap();
        let link = Link::new(port, to).unwrap();
        let mut near = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut got = [0; 3];
        near.write_all(b"one").unwrap();
        far.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one");

        link.set(Quality::Cut);
        near.write_all(b"two").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(far.read(&mut got).is_err(), "nothing gets over a cut link");
        // Neither does a new connection.
        let mut late = TcpStream::connect(("127.0.0.1", port)).unwrap();
        late.write_all(b"six").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
        listener.set_nonblocking(false).unwrap();

        link.set(Quality::Slow(Duration::from_millis(1)));
        far.set_read_timeout(None).unwrap();
        far.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"two");
        let (mut later, _) = listener.accept().unwrap();
        later.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"six");
        far.write_all(b"ten").unwrap();
        near.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ten");

        drop(far);
        assert_eq!(near.read(&mut got).unwrap(), 0);
    }
}

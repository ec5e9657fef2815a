//! A client that keeps its datagram socket, as resolvers and metrics libraries do, and says who answers whenever that changes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::connect::Plan;

/// Asks as often as the plan says over one connected socket, until that breaks; then over the next. Prints a line for every
/// answer that differs from the one before.
pub(crate) fn run(plan: &Plan) {
    let mut socket = None;
    let mut last = String::new();
    for _ in 0..plan.count {
        let answer = match ask(plan, &mut socket) {
            Ok(name) => name,
            Err(error) => {
                socket = None;
                format!("error: {error}")
            }
        };
        if answer != last {
            println!("{answer}");
            last = answer;
        }
        thread::sleep(plan.interval);
    }
}

fn ask(plan: &Plan, kept: &mut Option<UdpSocket>) -> io::Result<String> {
    let socket = match kept {
        Some(socket) => socket,
        None => kept.insert(socket(plan.target, plan.timeout)?),
    };
    socket.send(b"hostname")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

/// A datagram socket that is connected to the target, and waits no longer than this for an answer.
pub(crate) fn socket(target: SocketAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket)
}

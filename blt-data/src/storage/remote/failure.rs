//! Errors of object stores, with what to do about them.

use crate::storage::{Scheme, StorageError, Url};

/// The environment variables that hold a store's credentials.
fn variables(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL (AWS_SKIP_SIGNATURE=true for a public bucket)"
        }
        Scheme::Gs => {
            "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS (GOOGLE_SKIP_SIGNATURE=true for a public bucket)"
        }
        Scheme::Az => {
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (AZURE_SKIP_SIGNATURE=true for a public container)"
        }
        Scheme::Https | Scheme::Http => "the server's access rules: no credentials are sent",
    }
}

/// The servers that give machines in a cloud their credentials. They are asked if the environment
/// has none.
const METADATA_SERVERS: [&str; 3] =
    ["169.254.169.254", "metadata.google.internal", "169.254.170.2"];

/// Turns an error of `object_store` into one that says what to do.
pub(super) fn failed(action: &'static str, url: &Url, error: object_store::Error) -> StorageError {
    use object_store::Error;
    let (at, bucket, variables) = (url.to_string(), url.bucket.clone(), variables(url.scheme));
    let text = error.to_string();
    let cause = short(&text);
    let no_bucket = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]
        .iter()
        .any(|sign| text.contains(sign));
    let has_no_credentials = METADATA_SERVERS.iter().any(|server| text.contains(server))
        || text.contains("MissingAccessKeyId")
        || text.contains("MissingSecretAccessKey");
    let denied = [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AccessDenied",
        "AuthFailure",
        "ExpiredToken",
    ];
    match error {
        _ if no_bucket => StorageError::NoBucket { action, at, bucket, cause, variables },
        _ if has_no_credentials => StorageError::NoCredentials { action, at, cause, variables },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            StorageError::Denied { action, at, cause, variables }
        }
        _ if denied.iter().any(|sign| text.contains(sign)) => {
            StorageError::Denied { action, at, cause, variables }
        }
        Error::NotFound { .. } => StorageError::Missing { at },
        Error::Precondition { .. } => StorageError::Changed { at },
        Error::NotSupported { .. } if url.scheme.is_web() => StorageError::NoRanges { at },
        _ => StorageError::Failed { action, at, cause },
    }
}

/// The server's own message if its answer has one in XML, else the whole text; on one line.
fn short(text: &str) -> String {
    let of = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.trim())
    };
    match (of("Code"), of("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            // The URL names the store.
            let plain = words
                .strip_prefix("Generic ")
                .and_then(|rest| Some(rest.split_once(" error: ")?.1));
            plain.unwrap_or(&words).to_owned()
        }
    }
}

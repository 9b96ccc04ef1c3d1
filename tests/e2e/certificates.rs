//! A certificate of one's own in front of the API: served, checked by its authority, and refused where it cannot be.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use service::view::TokenCreated;

use crate::harness::{Lab, Node, Output, run};

/// Runs openssl in a directory, with words that have no spaces.
fn openssl(directory: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command
        .current_dir(directory)
        .args(arguments.split_whitespace());
    run(&mut command, "openssl").success();
}

/// An authority `ca` in a directory, and what it has signed for 127.0.0.1: `own.crt` and `own.key`.
fn authority(directory: PathBuf) -> PathBuf {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    fs::create_dir(&directory).unwrap();
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n";
    fs::write(directory.join("names"), names).unwrap();
    for arguments in [
        &format!("req -x509 {KEY} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"),
        &format!("req {KEY} -keyout own.key -out own.csr -subj /CN=node"),
        "x509 -req -in own.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days 2 -extfile names -out own.crt",
    ] {
        openssl(&directory, arguments);
    }
    fs::set_permissions(directory.join("own.key"), fs::Permissions::from_mode(0o600)).unwrap();
    directory
}

/// Puts lines before the settings that the machine has.
fn set(node: &Node, before: &str, lines: &[(&str, PathBuf)]) {
    let lines: String = lines
        .iter()
        .map(|(key, path)| format!("{key} = {path:?}\n"))
        .collect();
    fs::write(node.data().join("muster.toml"), lines + before).unwrap();
}

#[test]
fn an_own_certificate_is_served_and_its_authority_is_enough_for_clients() {
    let lab = Lab::new();
    let ours = authority(lab.path().join("ours"));
    let others = authority(lab.path().join("others"));
    let a = lab.machine("a");
    let settings = fs::read_to_string(a.data().join("muster.toml")).unwrap();
    let pair =
        |certificate: PathBuf, key: PathBuf| [("tls_certificate", certificate), ("tls_key", key)];
    let good = pair(ours.join("own.crt"), ours.join("own.key"));
    set(&a, &settings, &good);
    a.up(&["--new"]);
    let token: TokenCreated = a.ask(&["user", "add", "ada"]);
    let client = |extra: &[&str]| -> Output {
        // Another port after each start.
        let url = format!("https://127.0.0.1:{}", a.printed_word("https://127.0.0.1:"));
        let mut command = a.program();
        let command = command.env("MUSTER_TOKEN", &token.token);
        let command = command.args(["--node", &url]).args(extra).arg("ls");
        run(command, "a client over TLS")
    };
    let trusting = |directory: &Path| client(&["--ca", directory.join("ca.crt").to_str().unwrap()]);
    trusting(&ours).success();
    let said = trusting(&others).failure(1);
    assert!(said.contains("certificate"), "{said}");
    client(&[]).failure(1);
    let fingerprint = format!("sha256:{}", a.printed_word("sha256:"));
    client(&["--pin", &fingerprint]).success();
    assert!(
        !a.data().join("api.crt").exists(),
        "none was made beside it"
    );

    a.terminate();
    let refused = |lines: &[(&str, PathBuf)], parts: &[&str]| {
        set(&a, &settings, lines);
        let said = a.up_in_vain(&[]).failure(1);
        for part in parts {
            assert!(said.contains(part), "{part} is missing in: {said}");
        }
    };
    refused(
        &pair(ours.join("own.crt"), others.join("own.key")),
        &["ours/own.crt", "others/own.key", "not its own"],
    );
    refused(
        &pair(ours.join("none.crt"), ours.join("own.key")),
        &["ours/none.crt"],
    );
    refused(
        &pair(ours.join("own.crt"), ours.join("none.key")),
        &["ours/none.key"],
    );
    refused(&good[..1], &["tls_certificate and tls_key belong together"]);
    refused(&good[1..], &["tls_certificate and tls_key belong together"]);
    set(&a, &settings, &good);
    a.up(&[]);
    trusting(&ours).success();
}

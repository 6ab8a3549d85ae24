//! Backups are signed, and restored from only when the one who was named has signed them.

use std::path::{Path, PathBuf};
use std::process::Command;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tigerchat-signed-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

/// What a command printed, or its error.
fn said(words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tigerchat"));
    let output = command.args(words).env_remove("TIGERCHAT_SIGNING_KEY_FILE").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Makes a signing key; its public key.
fn make_key(file: &str) -> String {
    let made = said(&["key", "make-signing", file]).unwrap();
    let public = said(&["key", "public", file]).unwrap().trim().to_owned();
    assert!(public.len() == 64 && made.contains(&format!("public key {public}")), "{made}");
    let secret = std::fs::read_to_string(file).unwrap();
    let secret = secret.trim().strip_prefix("ed25519-secret ").unwrap();
    assert!(!made.contains(secret) && secret != public);
    assert!(said(&["key", "make-signing", file]).unwrap_err().contains("can't be made"), "never overwrites");
    public
}

#[test]
fn a_backup_is_restored_only_if_whoever_was_named_has_signed_it() {
    let folder = Folder::new();
    let (key, other) = (folder.file("key"), folder.file("other"));
    let (public, other_public) = (make_key(&key), make_key(&other));
    let (file, backup) = (folder.file("file"), folder.file("monday"));
    said(&["format", "--cluster", "new", "--replica", "0", "--replicas", "1", "--unsealed", &file]).unwrap();

    // A file of production is not backed up unsigned by mistake, nor with what is no signing key.
    let words = ["backup", "--file", &file, "--out", &backup];
    let more = |more: &[&str]| said(&[&words[..], more].concat());
    let unnamed = more(&[]).unwrap_err();
    assert!(unnamed.contains("17009") && unnamed.contains("--sign-key"), "{unnamed}");
    let master = folder.file("master");
    said(&["key", "make", &master]).unwrap();
    assert!(more(&["--sign-key", &master]).unwrap_err().contains("17005"), "a master key signs nothing");
    let sealed = ["format", "--cluster", "new", "--replica", "0", "--key", &key, &folder.file("none")];
    assert!(said(&sealed).unwrap_err().contains("17005"), "and a signing key seals nothing");
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert!(more(&["--sign-key", &other]).unwrap_err().contains("17004"));
    assert!(!Path::new(&backup).exists());
    let made = more(&["--sign-key", &key]).unwrap();
    assert!(made.contains(&format!("signed by {public}")), "{made}");

    let out = folder.file("out");
    let restore = |more: &[&str]| {
        let words = ["restore", "--from", &backup, "--cluster", "new", "--replica", "0", "--out", &out];
        let done = said(&[&words[..], &["--unsealed"], more].concat());
        assert_eq!(Path::new(&out).exists(), done.is_ok());
        let _ = std::fs::remove_file(&out);
        done
    };
    let unnamed = restore(&[]).unwrap_err();
    assert!(unnamed.contains("17009") && unnamed.contains(&public), "{unnamed}");
    restore(&["--signed-by", &public]).unwrap();
    restore(&["--unverified"]).unwrap();
    let wrong = restore(&["--signed-by", &other_public]).unwrap_err();
    assert!(wrong.contains("17010") && wrong.contains(&public) && wrong.contains(&other_public), "{wrong}");
    assert!(restore(&["--signed-by", &public[1..]]).unwrap_err().contains("64 hexadecimal digits"));

    // Who makes the sums right again has not made the signature right again: not even --unverified takes it.
    let path = format!("{backup}/backup.json");
    let about = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, about.replace("\"lineage\": 0", "\"lineage\": 7")).unwrap();
    assert_ne!(std::fs::read_to_string(&path).unwrap(), about);
    let sums = Command::new("sha256sum")
        .args(["backup.json", "superblock", "blocks", "log"])
        .current_dir(&backup)
        .output()
        .unwrap();
    std::fs::write(format!("{backup}/SHA256SUMS"), sums.stdout).unwrap();
    for named in [&["--signed-by", public.as_str()][..], &["--unverified"]] {
        let changed = restore(named).unwrap_err();
        assert!(changed.contains("17010") && changed.contains("SHA256SUMS.sig"), "{changed}");
    }
    // And who takes it away has none.
    std::fs::remove_file(format!("{backup}/SHA256SUMS.sig")).unwrap();
    let gone = restore(&["--signed-by", &public]).unwrap_err();
    assert!(gone.contains("17010") && gone.contains("found none"), "{gone}");
    assert!(restore(&[]).unwrap_err().contains("it is not signed"));
}

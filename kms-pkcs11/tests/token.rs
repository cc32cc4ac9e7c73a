//! A key in a real token: SoftHSM of Debian's packages, in a folder of the test's own.
//!
//! SoftHSM finds its folder by an environment variable of the process, so each test runs its part in a process that has it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of a test says what is wrong by panicking"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use attache_kms_pkcs11::{
    config::TokenSettings,
    token::{TokenError, TokenKey},
};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass},
    session::{Session, UserType},
    types::{AuthPin, Ulong},
};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const FOLDER: &str = "SOFTHSM2_CONF";
const TOKEN: &str = "attache test";
const PIN: &str = "canary-4711";

/// Runs a part of this program with a token of its own.
fn with_token(part: &str) {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = folder.path().join("softhsm2.conf");
    fs::write(
        &conf,
        format!("directories.tokendir = {}\n", tokens.display()),
    )
    .unwrap();
    let init = Command::new("softhsm2-util")
        .env(FOLDER, &conf)
        .args(["--init-token", "--free", "--label", TOKEN])
        .args(["--so-pin", "12345678", "--pin", PIN])
        .output()
        .unwrap();
    assert!(init.status.success(), "{init:?}");
    let run = Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, &conf)
        .args(["--ignored", "--exact", part])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{run:?}"
    );
}

/// The folder that this process was given.
fn folder() -> PathBuf {
    let conf = std::env::var(FOLDER).unwrap();
    Path::new(&conf).parent().unwrap().to_owned()
}

fn pin_file(pin: &str) -> PathBuf {
    let file = folder().join("pin");
    fs::write(&file, pin).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn settings(label: &str, key: &str) -> TokenSettings {
    TokenSettings {
        module: MODULE.into(),
        label: label.to_owned(),
        key: key.to_owned(),
        pin_file: pin_file(&format!("{PIN}\n")),
    }
}

/// The token, by itself. A process starts a module once, and every user of it shares that.
fn session() -> Session {
    let module = Pkcs11::new(MODULE).unwrap();
    let _started_before = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slots = module.get_slots_with_initialized_token().unwrap();
    let session = module.open_rw_session(slots[0]).unwrap();
    let _logged_in_before = session.login(UserType::User, Some(&AuthPin::from(PIN)));
    session
}

fn make(session: &Session, label: &str, extractable: bool) {
    let key = [
        Attribute::ValueLen(Ulong::from(32)),
        Attribute::Label(label.into()),
        Attribute::Token(true),
        Attribute::Sensitive(!extractable),
        Attribute::Extractable(extractable),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &key).unwrap();
}

#[test]
fn a_key_is_made_that_cannot_be_read_and_encrypts() {
    with_token("made");
}

#[test]
#[ignore = "needs the token that the test of it makes"]
fn made() {
    let key = TokenKey::open(settings(TOKEN, "slot key")).unwrap();
    let absent = key.id().unwrap_err().to_string();
    assert!(absent.contains("create-key"), "{absent}");
    key.create().unwrap();
    let id = key.id().unwrap();
    assert!(
        id.starts_with("pkcs11:token=attache%20test;serial=") && id.ends_with(";object=slot%20key"),
        "{id}"
    );
    assert!(matches!(
        key.create(),
        Err(TokenError::Key { count: 1, .. })
    ));

    let session = session();
    let found = session
        .find_objects(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
        ])
        .unwrap();
    let value = session
        .get_attribute_info(found[0], &[AttributeType::Value])
        .unwrap();
    assert!(matches!(value.as_slice(), [AttributeInfo::Sensitive]));

    make(&session, "another", false);
    let secret = [7; 64];
    let (first, by) = key.encrypt(&secret).unwrap();
    let (second, _) = key.encrypt(&secret).unwrap();
    assert_eq!(by, id);
    assert_ne!(first, second, "each has an IV of its own");
    assert_eq!(key.decrypt(&first).unwrap().as_slice(), secret);
    for at in 0..first.len() {
        let mut flipped = first.clone();
        flipped[at] ^= 1;
        let told = key.decrypt(&flipped).unwrap_err();
        assert!(
            matches!(told, TokenError::Ciphertext),
            "byte {at}: {told:?}"
        );
        let told = key.decrypt(&first[..at]).unwrap_err();
        assert!(
            matches!(told, TokenError::Ciphertext),
            "{at} bytes: {told:?}"
        );
    }
    let another = TokenKey::open(TokenSettings {
        key: "another".to_owned(),
        ..settings(TOKEN, "")
    })
    .unwrap();
    let told = another.decrypt(&first).unwrap_err();
    assert!(matches!(told, TokenError::Ciphertext), "{told:?}");
    assert!(!format!("{key:?}").contains(PIN));
}

#[test]
fn only_one_key_is_used_that_cannot_leave_its_token() {
    with_token("refused");
}

#[test]
#[ignore = "needs the token that the test of it makes"]
fn refused() {
    let key = TokenKey::open(settings(TOKEN, "slot")).unwrap();
    let session = session();
    make(&session, "slot", true);
    let told = key.encrypt(&[1; 32]).unwrap_err();
    assert!(matches!(told, TokenError::Readable { .. }), "{told:?}");
    make(&session, "slot", false);
    let told = key.id().unwrap_err();
    assert!(matches!(told, TokenError::Key { count: 2, .. }), "{told:?}");
}

#[test]
fn a_token_that_is_not_there_is_named_with_those_that_are() {
    with_token("absent");
}

#[test]
#[ignore = "needs the token that the test of it makes"]
fn absent() {
    let key = TokenKey::open(settings("other", "slot")).unwrap();
    let told = key.id().unwrap_err().to_string();
    assert!(told.contains("\"other\"") && told.contains(TOKEN), "{told}");
}

#[test]
fn a_pin_that_is_refused_is_not_tried_again() {
    with_token("locked_out");
}

#[test]
#[ignore = "needs the token that the test of it makes"]
fn locked_out() {
    let settings = settings(TOKEN, "slot");
    fs::write(&settings.pin_file, "canary-wrong").unwrap();
    let key = TokenKey::open(settings).unwrap();
    let refused = || {
        let told = key.id().unwrap_err();
        assert!(matches!(told, TokenError::Pin), "{told:?}");
        let words = told.to_string();
        assert!(
            words.contains("token.pin_file") && !words.contains("canary"),
            "{words}"
        );
    };
    let module = Pkcs11::new(MODULE).unwrap();
    // The token's own word that a PIN was refused since the last one that was not.
    let tried = || {
        let slot = module.get_slots_with_initialized_token().unwrap()[0];
        module.get_token_info(slot).unwrap().user_pin_count_low()
    };
    refused();
    assert!(tried());
    session().logout().unwrap();
    assert!(!tried());
    refused();
    assert!(!tried());
}

#[test]
fn a_pin_file_that_others_may_read_and_one_that_holds_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pin");
    let open = |text: &str, mode: u32| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let settings = TokenSettings {
            module: MODULE.into(),
            label: TOKEN.into(),
            key: "slot".into(),
            pin_file: file.clone(),
        };
        TokenKey::open(settings).map(|_| ()).unwrap_err()
    };
    assert!(matches!(open("1234", 0o644), TokenError::PinFile(_)));
    for text in ["", "\n", "12\n34", "12\0"] {
        let told = open(text, 0o600);
        assert!(matches!(told, TokenError::NoPin), "{text:?}: {told:?}");
    }
    let settings = TokenSettings {
        module: file.clone(),
        label: TOKEN.into(),
        key: "slot".into(),
        pin_file: {
            fs::write(&file, "1234").unwrap();
            file
        },
    };
    let told = TokenKey::open(settings).map(|_| ()).unwrap_err();
    assert!(matches!(&told, TokenError::Module { .. }), "{told:?}");
    assert!(told.to_string().contains("token.module"), "{told}");
}

use super::*;
use crate::testing::name;

fn id(key: u8, cluster: &str, pod: &str, volume: &str, reason: &str) -> DenialId {
    let key = [key; 32];
    let (cluster, pod, volume) = (name(cluster), name(pod), name(volume));
    DenialId::new(DenialKey::new(&key), &cluster, &pod, &volume, reason)
}

#[test]
fn the_same_refusal_has_the_same_id_and_any_other_another() {
    let one = id(1, "local", "1f0c", "secrets", "no grant");
    assert_eq!(one, id(1, "local", "1f0c", "secrets", "no grant"));
    for other in [
        id(2, "local", "1f0c", "secrets", "no grant"),
        id(1, "edge", "1f0c", "secrets", "no grant"),
        id(1, "local", "1f0d", "secrets", "no grant"),
        id(1, "local", "1f0c", "secrets2", "no grant"),
        id(1, "local", "1f0c", "secrets", "no grants"),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn text_is_eight_lower_case_hex_digits() {
    let one = id(1, "local", "1f0c", "secrets", "no grant");
    assert_eq!(one.to_string().parse(), Ok(one));
    assert_eq!(one.to_string().len(), 8);
    for wrong in ["", "7f3a9c1", "7f3a9c122", "7F3A9C12", "7f3a9c1g"] {
        assert!(wrong.parse::<DenialId>().is_err(), "{wrong}");
    }
}

//! What kubelet sends, at the socket: refused by field and mend, with nothing changed; and what a republish costs.

use std::fs;
use std::time::{Duration, Instant};

use attache_proto::csi::v1 as csi;
use attache_proto::pluginregistration as reg;
use reg::registration_client::RegistrationClient;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::bed::{Bed, TOKENS, Volume};

#[test]
fn a_bad_request_is_refused_before_the_broker_hears_of_it() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.kubelet.prepare(&volume);
    type Bend = fn(&mut csi::NodePublishVolumeRequest);
    let bends: &[(&str, Bend)] = &[
        ("volume_id", |r| r.volume_id = "csi-1".into()),
        ("target_path", |r| r.target_path = "/etc/passwd".into()),
        ("target_path", |r| {
            r.target_path = r.target_path.replace("/mount", "/../mount")
        }),
        ("volume_capability", |r| r.volume_capability = None),
        ("volumeAttributes.uid", |r| {
            drop(r.volume_context.insert("uid".into(), "0".into()))
        }),
        ("volumeAttributes", |r| {
            drop(r.volume_context.insert("secrte".into(), "x".into()))
        }),
        ("volumeAttributes.container", |r| {
            drop(r.volume_context.remove("container"))
        }),
        ("secrets", |r| r.secrets.clear()),
        ("volume_context", |r| {
            drop(
                r.volume_context
                    .insert(TOKENS.into(), r.secrets[TOKENS].clone()),
            );
        }),
    ];
    for (field, bend) in bends {
        let mut request = bed.kubelet.publish_request(&volume);
        bend(&mut request);
        let refused = bed.send(request).expect_err(field);
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{field}: {refused:?}"
        );
        assert!(refused.message().starts_with(field), "{field}: {refused:?}");
    }
    let mut request = bed.kubelet.publish_request(&volume);
    request
        .volume_context
        .insert("secrets".into(), "x".repeat(1024 * 1024));
    let refused = bed.send(request).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(bed.broker.world.lock().unwrap().tokens.is_empty());
    assert!(bed.mounts().is_empty());
}

/// Kubelet 1.35 and older delete a mount whose republish ends in a final error: there is none for what is mounted.
#[test]
fn a_bad_republish_keeps_the_mount_and_is_reported() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let before = (bed.mounts(), bed.read(&volume, ".attache.json"));
    let condition = || bed.stats(&volume).unwrap().volume_condition.unwrap();
    type Bend = fn(&mut csi::NodePublishVolumeRequest);
    let bends: &[(&str, Bend)] = &[
        ("secrets", |r| r.secrets.clear()),
        ("volume_capability", |r| r.volume_capability = None),
        ("volumeAttributes.container", |r| {
            drop(r.volume_context.remove("container"))
        }),
    ];
    for (field, bend) in bends {
        let mut request = bed.kubelet.publish_request(&volume);
        bend(&mut request);
        bed.send(request).unwrap();
        assert_eq!((bed.mounts(), bed.read(&volume, ".attache.json")), before);
        let told = condition();
        assert!(told.abnormal && told.message.starts_with(field), "{told:?}");
    }
    let mut request = bed.kubelet.publish_request(&volume);
    request.secrets.clear();
    bed.unpublish(&volume).unwrap();
    let refused = bed.send(request).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    bed.publish(&volume).unwrap();
    assert!(!condition().abnormal);
}

#[test]
fn the_other_calls_answer_as_the_specification_has_it() {
    let bed = Bed::start();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let (mut node, mut identity) = (bed.kubelet.node.clone(), bed.kubelet.identity.clone());
    bed.runtime.block_on(async {
        let info = identity
            .get_plugin_info(csi::GetPluginInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.name, "csi.attache.dev");
        assert!(!info.vendor_version.is_empty());
        let can = identity
            .get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {})
            .await
            .unwrap();
        assert!(can.get_ref().capabilities.is_empty());
        let info = node
            .node_get_info(csi::NodeGetInfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.node_id, "node-a");
        let can = node
            .node_get_capabilities(csi::NodeGetCapabilitiesRequest {})
            .await
            .unwrap();
        assert_eq!(can.get_ref().capabilities.len(), 3);
        let staged = node
            .node_stage_volume(csi::NodeStageVolumeRequest::default())
            .await;
        let unstaged = node
            .node_unstage_volume(csi::NodeUnstageVolumeRequest::default())
            .await;
        let expanded = node
            .node_expand_volume(csi::NodeExpandVolumeRequest::default())
            .await;
        for code in [staged.map(drop), unstaged.map(drop), expanded.map(drop)]
            .map(|r| r.unwrap_err().code())
        {
            assert_eq!(code, Code::Unimplemented);
        }
    });
    let stats = bed.stats(&volume).unwrap();
    assert_eq!(stats.usage.len(), 2);
    assert!(
        stats
            .usage
            .iter()
            .all(|usage| usage.used > 0 && usage.total == usage.used + usage.available)
    );
    assert!(!stats.volume_condition.unwrap().abnormal);
    assert_eq!(
        bed.stats(&Volume::new("web-1")).unwrap_err().code(),
        Code::NotFound
    );
    bed.unpublish(&volume).unwrap();
    assert_eq!(bed.stats(&volume).unwrap_err().code(), Code::NotFound);
}

#[test]
fn kubelet_registers_the_driver() {
    let bed = Bed::start();
    let socket = bed
        .dir
        .join("kubelet/plugins_registry/kubelet@csi.attache.dev-reg.sock");
    bed.runtime.block_on(async {
        let channel = Endpoint::try_from(format!("unix:{}", socket.display()))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = RegistrationClient::new(channel);
        let info = client
            .get_info(reg::InfoRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (info.r#type.as_str(), info.name.as_str()),
            ("CSIPlugin", "csi.attache.dev")
        );
        assert!(
            info.endpoint.ends_with("/kubelet@csi.sock") && fs::exists(&info.endpoint).unwrap()
        );
        assert_eq!(info.supported_versions, ["1.0.0"]);
        let status = reg::RegistrationStatus {
            plugin_registered: false,
            error: "no".into(),
        };
        client.notify_registration_status(status).await.unwrap();
    });
    bed.until("told", |bed| {
        bed.log().contains("kubelet refuses the driver")
    });
}

/// Printed for the record; the bound is loose, since this runs beside other tests and with a log at TRACE.
#[test]
fn a_republish_takes_no_mount_and_little_time() {
    let mut bed = Bed::idle();
    let quiet = fs::read_to_string(bed.dir.join("node-plugin.toml"))
        .unwrap()
        .replace("trace", "info");
    fs::write(bed.dir.join("node-plugin.toml"), quiet).unwrap();
    bed.start_plugin();
    let volume = Volume::new("web-0");
    bed.publish(&volume).unwrap();
    let request = bed.kubelet.publish_request(&volume);
    let mut node = bed.kubelet.node.clone();
    let mut times: Vec<Duration> = bed.runtime.block_on(async {
        let mut times = Vec::new();
        for _ in 0..500 {
            let request = request.clone();
            let begun = Instant::now();
            node.node_publish_volume(request).await.unwrap();
            times.push(begun.elapsed());
        }
        times
    });
    times.sort();
    let resident: Vec<String> = ["agent", "mounter"]
        .iter()
        .map(|half| {
            let pid = bed.pid_of(half).unwrap().as_raw_nonzero();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("VmRSS:"))
                .unwrap_or_default();
            format!(
                "{half} {}",
                line.split_whitespace()
                    .skip(1)
                    .collect::<Vec<_>>()
                    .join(" ")
            )
        })
        .collect();
    println!(
        "republish p50 {:?}, p99 {:?}; resident {resident:?}",
        times[250], times[495]
    );
    assert!(times[250] < Duration::from_millis(20), "{:?}", times[250]);
    assert_eq!(bed.mounts().len(), 1);
}

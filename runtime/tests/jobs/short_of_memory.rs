//! What is done about a lack of memory is told to whoever looks: who was asked, what it gave, what went to disk.

use aqueduct_runtime::Graph;
use aqueduct_runtime::observe::{DiskWork, JobLife, MEMORY_EVENTS, MemoryEvent, MemoryEventKind, WorkerMemory};
use aqueduct_runtime::testing::{CountingSink, EndlessSource, NumbersSource, eventually};

use crate::bottleneck::Keep;
use crate::{MIB, cluster, within_a_minute};

#[test]
fn who_was_asked_and_who_wrote_to_disk_is_remembered_and_counted() {
    within_a_minute(|| {
        let cluster = cluster(1, 8 * MIB);
        let observer = cluster.observer();
        let mut graph = Graph::new();
        let read = graph.source("read", EndlessSource::new());
        let keep = graph.operator("keep", Keep, read.round_robin());
        graph.sink("write", CountingSink::new(), keep);
        observer.record_timeline(std::time::Duration::from_secs(60));
        let job = cluster.run(&graph).expect("it starts");
        eventually("it spills", || job.metrics().nodes[1].spilled_bytes > 4 * MIB as u64);
        // A second job wants what the first one holds beyond its floors.
        let mut graph = Graph::new();
        let read = graph.source("read", EndlessSource::new());
        let keep = graph.operator("too", Keep, read.round_robin());
        graph.sink("write", CountingSink::new(), keep);
        let second = cluster.run(&graph).expect("it starts");
        let worker = || observer.memory().pop().expect("one worker");
        let of = |worker: &WorkerMemory, kind| -> Vec<MemoryEvent> {
            worker.events.iter().filter(|event| event.kind == kind).cloned().collect()
        };
        eventually("somebody was asked", || !of(&worker(), MemoryEventKind::Reclaim).is_empty());
        let disk = observer.timeline().disks.pop().expect("one worker").1;
        assert!(
            disk.iter().any(|span| span.work == DiskWork::Spill && &*span.holder == "keep [0]" && span.bytes > Some(0))
        );
        drop(second);
        drop(job);
        eventually("both have ended", || observer.jobs().iter().all(|job| job.ended_at().is_some()));
        let worker = worker();
        let (spills, reclaims) = (of(&worker, MemoryEventKind::Spill), of(&worker, MemoryEventKind::Reclaim));
        assert!(spills.iter().any(|event| event.job == Some(0) && &*event.holder == "keep [0]"), "{spills:?}");
        assert!(spills.iter().all(|event| event.bytes > 0 && event.asked_bytes == 0));
        let known = ["keep [0]", "too [0]"];
        assert!(reclaims.iter().all(|event| known.contains(&&*event.holder) && event.asked_bytes > 0), "{reclaims:?}");
        let counts = worker.counts;
        let spilled: u64 =
            observer.jobs().iter().flat_map(|job| job.metrics().nodes.clone()).map(|n| n.spilled_bytes).sum();
        assert_eq!(counts.spilled_bytes, spilled, "counted by the nodes, too");
        assert!(counts.spills > 0 && counts.reclaims > 0 && counts.vain_reclaims <= counts.reclaims);
        assert!(worker.events.len() <= MEMORY_EVENTS);
        let life = observer.job(0).expect("it is remembered").life();
        assert!(life.events.iter().all(|(on, event)| *on == 0 && event.job == Some(0)) && !life.events.is_empty());
    });
}

#[test]
fn a_job_that_nobody_watched_has_its_pictures_all_the_same() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let observer = cluster.observer();
        let mut graph = Graph::new();
        let read = graph.source("read", NumbersSource::new(3_000_000));
        let work = graph.map("work", read.hash(["n"]), Ok);
        graph.sink("write", CountingSink::new(), work);
        cluster.run(&graph).expect("it starts").wait().expect("it ends well");
        let job = observer.job(0).expect("it is remembered");
        let life: &JobLife = &job.life();
        assert_eq!(life.threads.iter().map(|t| (t.worker, t.thread)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
        let slots = || life.threads.iter().flat_map(|thread| &thread.slots);
        let booked: u64 = slots().map(|slot| slot.other_ns + slot.busy_ns.iter().map(|(_, ns)| ns).sum::<u64>()).sum();
        let ran: u128 = job.metrics().tasks.iter().map(|task| task.running.as_nanos()).sum();
        assert_eq!(u128::from(booked), ran, "all that ran is in the picture");
        assert!(slots().any(|slot| slot.charged_bytes > 0));
        assert!(!life.memory.is_empty() && life.memory.iter().all(|look| look.held_bytes.len() == 2));
        assert!(life.events.is_empty());
    });
}

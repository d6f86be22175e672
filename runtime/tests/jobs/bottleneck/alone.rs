//! One pipeline for each way to hold a job up. They measure time, so they have the machine to themselves.

use super::*;

#[test]
fn a_source_that_waits_for_its_data() {
    let found = named(|graph| {
        let read = graph.source("read", StalledSource::slow(endless(), SLOW));
        let work = graph.map("work", read.hash(["n"]), Ok);
        sink(graph, work);
    });
    assert_eq!((&*found.name, found.cause), ("read", Cause::Outside), "{}", found.sentence);
    assert!(found.sentence.contains("two operators downstream wait for it"), "{}", found.sentence);
}

#[test]
fn a_source_that_waits_for_the_network() {
    let server = network::slow_server(SLOW);
    let found = named(move |graph| {
        let read = graph.source("fetch", network::NetworkSource { inner: endless(), server });
        let work = graph.map("work", read.hash(["n"]), Ok);
        sink(graph, work);
    });
    assert_eq!((&*found.name, found.cause), ("fetch", Cause::Outside), "{}", found.sentence);
    assert!(found.sentence.contains("what it reads (the network)"), "{}", found.sentence);
}

#[test]
fn a_source_that_computes() {
    let found = named(|graph| {
        let read = graph.source("read", BusySource(endless()));
        let work = graph.map("work", read.hash(["n"]), Ok);
        sink(graph, work);
    });
    assert_eq!((&*found.name, found.cause), ("read", Cause::Busy), "{}", found.sentence);
    assert!(found.sentence.contains("wait"), "{}", found.sentence);
}

#[test]
fn a_sink_that_computes() {
    let found = named(|graph| {
        let read = graph.source("read", endless());
        let work = graph.map("work", read.round_robin(), Ok);
        graph.sink("write", BusySink, work.gather());
    });
    assert_eq!((&*found.name, found.cause), ("write", Cause::Busy), "{}", found.sentence);
    assert!(found.sentence.contains("two operators upstream are parked on it"), "{}", found.sentence);
}

#[test]
fn a_sink_that_waits_for_its_disk() {
    let found = within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let gate = Gate::shut();
        let mut graph = Graph::new();
        let read = graph.source("read", endless());
        let work = graph.map("work", read.hash(["n"]), Ok);
        graph.sink("write", CountingSink::new().gated(&gate), work);
        let job = cluster.run(&graph).expect("it starts");
        // A batch each sixteenth time that somebody looks, which is a thousand times a second.
        let looks = AtomicU64::new(0);
        let found = of_job(&job, &|| gate.let_through(usize::from(looks.fetch_add(1, Relaxed).is_multiple_of(16))));
        gate.open();
        found
    });
    assert_eq!((&*found.name, found.cause), ("write", Cause::Outside), "{}", found.sentence);
    assert!(found.sentence.contains("where it writes to (gate)"), "{}", found.sentence);
}

#[test]
fn a_heavy_operator_behind_an_exchange() {
    let found = named(|graph| {
        let read = graph.source("read", endless());
        let heavy = graph.operator("heavy", slow(), read.round_robin());
        let light = graph.map("light", heavy.round_robin(), Ok);
        sink(graph, light);
    });
    assert_eq!((&*found.name, found.cause), ("heavy", Cause::Busy), "{}", found.sentence);
    assert!(found.sentence.contains("one operator upstream is parked on it"), "{}", found.sentence);
}

#[test]
fn a_heavy_operator_in_a_chain() {
    let found = named(|graph| {
        let read = graph.source("read", endless());
        let first = graph.map("first", read, Ok);
        let heavy = graph.operator("heavy", slow(), first);
        let last = graph.map("last", heavy, Ok);
        sink(graph, last);
    });
    assert_eq!((&*found.name, found.cause), ("heavy", Cause::Busy), "{}", found.sentence);
}

#[test]
fn an_operator_of_one_partition() {
    let found = named(|graph| {
        let read = graph.source("read", endless());
        let total = graph.operator("total", slow(), read.gather());
        sink(graph, total);
    });
    assert_eq!((&*found.name, found.cause, found.partition), ("total", Cause::Busy, None), "{}", found.sentence);
}

#[test]
fn a_partition_that_has_a_hot_key() {
    let found = named(|graph| {
        let read = graph.source("read", endless());
        let keyed = graph.map("keyed", read, one_hot_key);
        let skewed = graph.operator("skewed", PerRow, keyed.hash(["n"]));
        graph.set_partitions(skewed, Partitions::Fixed(8));
        sink(graph, skewed);
    });
    assert_eq!((&*found.name, found.cause), ("skewed", Cause::Skew), "{}", found.sentence);
    assert!(found.partition.is_some() && found.sentence.contains("its 7 others"), "{}", found.sentence);
    assert!(found.sentence.contains("of the rows"), "{}", found.sentence);
}

#[test]
fn a_partition_that_is_slow() {
    let found = named(|graph| {
        let read = graph.source("read", endless());
        let work = graph.operator("work", slow().at_partition(3), read.round_robin());
        graph.set_partitions(work, Partitions::Fixed(8));
        sink(graph, work);
    });
    assert_eq!((&*found.name, found.cause, found.partition), ("work", Cause::Skew, Some(3)), "{}", found.sentence);
}

#[test]
fn an_operator_that_spills() {
    let found = within_a_minute(|| {
        let cluster = cluster(2, 8 * MIB);
        let mut graph = Graph::new();
        let read = graph.source("read", EndlessSource::new());
        let keep = graph.operator("keep", Keep, read.round_robin());
        sink(&mut graph, keep);
        let job = cluster.run(&graph).expect("it starts");
        eventually("it spills", || job.metrics().nodes[1].spilled_bytes > MIB as u64);
        of_job(&job, &|| ())
    });
    assert_eq!(&*found.name, "keep", "{}", found.sentence);
    assert!(found.sentence.contains("spilled"), "{}", found.sentence);
}

#[test]
fn a_result_that_is_read_slowly() {
    let build = |graph: &mut Graph| {
        let read = graph.source("read", endless());
        let work = graph.map("work", read.round_robin(), Ok);
        graph.result("answer", work)
    };
    let found = read_by(build, SLOW);
    assert_eq!((&*found.name, found.cause), ("answer", Cause::Reader), "{}", found.sentence);
}

#[test]
fn a_result_in_order_of_a_slow_operator_is_not_read_slowly() {
    let build = |graph: &mut Graph| {
        let read = graph.source("read", endless().split_rows(5000));
        let heavy = graph.operator("heavy", slow(), read);
        graph.result("answer", heavy.gather_in_order())
    };
    let found = read_by(build, Duration::ZERO);
    assert_eq!((&*found.name, found.cause), ("heavy", Cause::Busy), "{}", found.sentence);
}

#[test]
fn one_branch_of_a_fork() {
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let found = named(move |graph| {
        let read = graph.source("read", endless());
        let counted = Arc::clone(&counted);
        let light = Map::new("count", move |batch: RecordBatch| {
            counted.fetch_add(1, Relaxed);
            Ok(batch)
        });
        let light = graph.operator("light", light, read.round_robin());
        let heavy = graph.operator("heavy", slow(), read.round_robin());
        sink(graph, light);
        graph.sink("other", CountingSink::new(), heavy);
    });
    assert_eq!((&*found.name, found.cause), ("heavy", Cause::Busy), "{}", found.sentence);
    assert!(seen.load(Relaxed) > 0, "the other branch moved");
}

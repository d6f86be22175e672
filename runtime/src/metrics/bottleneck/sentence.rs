//! A bottleneck in words.

use crate::config::format_bytes;
use crate::metrics::TaskMetrics;
use crate::metrics::bottleneck::{Cause, HELD_UP, Hold, View};
use crate::plan::NodeRole;

/// Says what `hold` is, and whom it holds up.
pub(super) fn of(view: &View<'_>, hold: &Hold) -> String {
    let node = &view.metrics.nodes[hold.node];
    let name = &node.name;
    let share = percent(hold.share);
    let mut text = match hold.cause {
        Cause::Busy if node.partitions > 1 => format!("`{name}` is busy {share} of its threads' time"),
        Cause::Busy => format!("`{name}` is busy {share}"),
        Cause::Skew => skew(view, hold),
        Cause::Outside => {
            let what = match node.role {
                NodeRole::Source => "what it reads",
                NodeRole::Sink => "where it writes to",
                NodeRole::Operator | NodeRole::Result => "something outside",
            };
            let now = view.tasks[hold.node].iter().find_map(|(task, _)| task.blocked_on);
            let now = now.map_or_else(String::new, |what| format!(" ({what})"));
            format!("`{name}` waits {share} of its time for {what}{now}")
        }
        Cause::Disk if node.spilled_bytes > 0 => {
            format!("`{name}` spills more than the disk takes in: tasks wait {share} of their time for it")
        }
        Cause::Disk => format!("`{name}` waits {share} of its time for what was spilled to be read back"),
        Cause::Memory => {
            let bytes = format_bytes(if node.state_bytes > 0 { node.state_bytes } else { node.peak_state_bytes });
            format!("tasks wait {share} of their time for memory, of which `{name}` holds {bytes}")
        }
        Cause::Reader => format!("`{name}` is read slowly: its senders are parked {share} of their time"),
    };
    if node.spilled_bytes > 0 {
        text += &format!("; it has spilled {}", format_bytes(node.spilled_bytes as usize));
    }
    let above = held_up(view, hold.node, true, |task| task.parked.as_secs_f64());
    if above > 0 && hold.cause != Cause::Reader {
        let (operators, are) = operators(above);
        text += &format!("; {operators} upstream {are} parked on it");
    }
    let below = held_up(view, hold.node, false, |task| task.idle.as_secs_f64());
    if below > 0 {
        let (operators, _) = operators(below);
        text += &format!("; {operators} downstream {} for it", if below == 1 { "waits" } else { "wait" });
    }
    text
}

fn skew(view: &View<'_>, hold: &Hold) -> String {
    let node = &view.metrics.nodes[hold.node];
    let partition = hold.partition.unwrap_or_default();
    let siblings = percent(view.siblings(hold.node, hold.partition));
    let mut text = format!(
        "partition {partition} of `{}` is busy {}, its {} others {siblings} on average",
        node.name,
        percent(hold.share),
        node.partitions - 1,
    );
    let rows = |only: bool| -> u64 {
        let tasks = view.tasks[hold.node].iter().filter(|(task, _)| !only || task.partition == partition);
        tasks.map(|(task, place)| task.nodes[*place].rows_in.max(task.nodes[*place].rows_out)).sum()
    };
    let share = rows(true) as f64 / rows(false).max(1) as f64;
    if share * node.partitions as f64 > 2.0 {
        text += &format!("; it has {} of the rows", percent(share));
    }
    text
}

/// Nodes before or after `node`, in other stages, that spend most of their time so.
fn held_up(view: &View<'_>, node: usize, before: bool, time: impl Fn(&TaskMetrics) -> f64) -> usize {
    let relatives = view.relatives(node, before).into_iter();
    relatives.filter(|&relative| view.share_of_life(relative, &time) >= HELD_UP).count()
}

fn operators(count: usize) -> (String, &'static str) {
    const WORDS: [&str; 10] = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let number = WORDS.get(count.wrapping_sub(1)).map_or_else(|| count.to_string(), |word| (*word).to_string());
    if count == 1 { (format!("{number} operator"), "is") } else { (format!("{number} operators"), "are") }
}

/// A share as people read it.
pub(crate) fn percent(share: f64) -> String {
    let percent = (share * 100.0).clamp(0.0, 100.0);
    if percent > 0.0 && percent < 1.0 { "under 1 %".into() } else { format!("{percent:.0} %") }
}

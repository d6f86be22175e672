//! Makes the tasks of an admitted job: scans, instances, ports, accounts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use crate::actor::WakeFlag;
use crate::error::{ExecutionError, Place, Result, panic_message};
use crate::exchange::Router;
use crate::graph::NodeKind;
use crate::io::Io;
use crate::job::{JobCore, Running};
use crate::mailbox::{Port, PortConfig};
use crate::memory::{Account, Admission};
use crate::metrics::{EdgeCounters, NodeCounters};
use crate::observe::{DiskRecorder, DiskUser, DiskWork};
use crate::operator::OperatorContext;
use crate::plan::{Edge, NodeRole, Plan};
use crate::sink::SinkContext;
use crate::source::{Scan, ScanContext, SourceContext};
use crate::spill::{SpillDir, SpillSpace};
use crate::task::{
    Clock, Head, Link, OutputEdge, Outputs, Ports, SinkTail, SourceHead, Tail, Task, TaskParts, TaskShared,
};

/// What one worker gives to the tasks on it.
pub(crate) struct WorkerParts {
    pub(crate) admission: Arc<Admission>,
    pub(crate) io: Io,
}

/// A task and where it is to run.
pub(crate) struct Placed {
    pub(crate) task: Task,
    pub(crate) flag: Arc<WakeFlag>,
    pub(crate) arbiter: (usize, usize),
}

struct Builder<'a> {
    core: &'a Arc<JobCore>,
    plan: &'a Plan,
    workers: &'a [WorkerParts],
    spaces: Vec<SpillSpace>,
    clock: &'a Arc<dyn Clock>,
    /// By stage and partition.
    flags: Vec<Vec<Arc<WakeFlag>>>,
    accounts: Vec<Vec<Account>>,
    /// Accounts of hazardous lanes, which can be asked to spool; by stage and partition.
    spooling: Vec<Vec<Vec<Account>>>,
    /// By edge and port: a port for each receiving partition, or behind lanes for each sending one.
    ports: Vec<Vec<Arc<Port>>>,
    edge_counters: Vec<Arc<EdgeCounters>>,
    /// By node.
    instance_accounts: Vec<Vec<Account>>,
    scans: Vec<Option<Arc<dyn Scan>>>,
}

/// Makes all tasks. Runs user code: the instances are made here.
///
/// # Errors
///
/// The first instance that could not be made, with its node.
pub(crate) fn build(
    core: &Arc<JobCore>,
    workers: &[WorkerParts],
    dir: &SpillDir,
    clock: &Arc<dyn Clock>,
) -> Result<(Running, Vec<Placed>), ExecutionError> {
    let plan = &*core.plan;
    let spaces = workers
        .iter()
        .enumerate()
        .map(|(index, parts)| {
            let workspace = parts.admission.account("spill workspace", plan.workspace_floor());
            dir.recorded_space(parts.io.clone(), workspace, disk_recorder(core, index))
        })
        .collect();
    let mut builder = Builder {
        core,
        plan,
        workers,
        spaces,
        clock,
        flags: plan.stages.iter().map(|stage| (0..stage.partitions).map(|_| Arc::default()).collect()).collect(),
        accounts: Vec::new(),
        spooling: plan.stages.iter().map(|stage| vec![Vec::new(); stage.partitions]).collect(),
        ports: Vec::new(),
        edge_counters: plan.edges.iter().map(|_| Arc::default()).collect(),
        instance_accounts: vec![Vec::new(); plan.nodes.len()],
        scans: vec![None; plan.nodes.len()],
    };
    builder.make_accounts();
    builder.make_ports();
    let mut placed = Vec::new();
    for stage in 0..plan.stages.len() {
        for partition in 0..plan.stages[stage].partitions {
            if core.is_cancelled() {
                return Err(ExecutionError::Cancelled);
            }
            // Before the tasks made so far are dropped: their receivers would report a vanished producer.
            placed.push(builder.make_task(stage, partition).inspect_err(|error| core.fail(error.clone()))?);
        }
    }
    let running = Running {
        tasks: placed.iter().map(|placed| Arc::clone(placed.task.shared())).collect(),
        edges: builder.edge_counters.into_iter().zip(builder.ports).collect(),
        accounts: builder.instance_accounts,
        hands: builder.accounts,
        clock: Arc::clone(clock),
        scans: builder.scans.into_iter().flatten().collect(),
        spaces: builder.spaces,
    };
    Ok((running, placed))
}

/// Where the work of a worker's I/O threads is recorded, if the job is shown anywhere.
fn disk_recorder(core: &JobCore, worker: usize) -> Option<DiskRecorder> {
    core.recorder().map(|recorder| DiskRecorder { recorder: Arc::clone(recorder), worker })
}

/// What an instance is called in memory's books.
fn instance_name(plan: &Plan, node: usize, partition: usize) -> String {
    format!("{} [{partition}]", plan.nodes[node].name)
}

impl Builder<'_> {
    fn make_accounts(&mut self) {
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let name = self.plan.stage_name(index);
            let floor = self.plan.hands_floor(stage);
            let accounts = (0..stage.partitions)
                .map(|p| self.workers[self.plan.arbiter(p).0].admission.account(format!("{name} [{p}]"), floor))
                .collect();
            self.accounts.push(accounts);
        }
    }

    fn make_ports(&mut self) {
        for (index, edge) in self.plan.edges.iter().enumerate() {
            let lanes = |admission: &Arc<Admission>, partition: usize| -> Vec<Account> {
                let name = format!("port of {} [{partition}]", self.plan.nodes[edge.to].name);
                (0..edge.lanes()).map(|_| admission.account(name.clone(), self.plan.port_bytes)).collect()
            };
            let ports = match edge.to_stage {
                Some(stage) => (0..edge.receivers * edge.ports_per_receiver())
                    .map(|port| {
                        let p = edge.receiver_of(port);
                        let worker = self.plan.arbiter(p).0;
                        let waker = Waker::from(Arc::clone(&self.flags[stage][p]));
                        let hands = Some(self.accounts[stage][p].clone());
                        let accounts = lanes(&self.workers[worker].admission, p);
                        if edge.hazardous {
                            self.spooling[stage][p].extend_from_slice(&accounts);
                        }
                        let holder = accounts.first().map(|account| Arc::clone(account.name())).unwrap_or_default();
                        let space = self.spaces[worker].for_instance(holder);
                        self.port(index, edge, accounts, hands, space, waker)
                    })
                    .collect(),
                None => {
                    // Given back on its own: the caller may read long after the tasks have ended.
                    let workspace = self.plan.result_workspace_floor(edge);
                    let admission = self.workers[0].admission.split(edge.lanes() * self.plan.port_bytes + workspace);
                    let caller = self.core.caller_wake(edge.to);
                    let space = self.spaces[0].beside(admission.account("spooled results", workspace));
                    let waker = Waker::from(Arc::clone(&caller));
                    let port = self.port(index, edge, lanes(&admission, 0), None, space, waker);
                    let mut receiver = port.receiver();
                    // Until the caller waits for it, nobody reads it.
                    receiver.leave_unread();
                    caller.connect(receiver);
                    vec![port]
                }
            };
            self.ports.push(ports);
        }
    }

    fn port(
        &self,
        index: usize,
        edge: &Edge,
        accounts: Vec<Account>,
        hands: Option<Account>,
        spill: SpillSpace,
        receiver: Waker,
    ) -> Arc<Port> {
        Port::new(PortConfig {
            senders: edge.senders_per_port(),
            ordered: edge.ordered,
            hazardous: edge.hazardous,
            capacity: self.plan.port_bytes,
            schema: Arc::clone(&edge.schema),
            accounts,
            hands,
            spill,
            receiver,
            counters: Arc::clone(&self.edge_counters[index]),
        })
    }

    fn make_task(&mut self, stage: usize, partition: usize) -> Result<Placed, ExecutionError> {
        let plan = self.plan;
        let arbiter = plan.arbiter(partition);
        let flag = Arc::clone(&self.flags[stage][partition]);
        let waker = Waker::from(Arc::clone(&flag));
        self.core.add_waker(waker.clone());
        let space = |&node: &usize| self.spaces[arbiter.0].for_instance(instance_name(plan, node, partition).into());
        let spaces: Vec<_> = plan.stages[stage].nodes.iter().map(space).collect();
        let nodes: Vec<_> = plan.stages[stage]
            .nodes
            .iter()
            .zip(&spaces)
            .map(|(&node, space)| {
                let counters = NodeCounters { spilled_bytes: space.own_bytes(), ..NodeCounters::default() };
                (Arc::clone(&plan.nodes[node].name), Arc::new(counters))
            })
            .collect();
        let shared = Arc::new(TaskShared::new(stage, partition, arbiter.0, nodes));
        let mut head = None;
        let mut links: Vec<Link> = Vec::new();
        let mut tail = None;
        for (position, &node) in plan.stages[stage].nodes.iter().enumerate() {
            let account = self.instance_account(node, partition, arbiter.0);
            let made = catch_unwind(AssertUnwindSafe(|| match &plan.nodes[node].kind {
                NodeKind::Source(_) => {
                    head = Some(self.make_source(node, partition, arbiter.0, account)?);
                    Ok(())
                }
                NodeKind::Operator(spec) => {
                    let context = self.operator_context(node, partition, arbiter.0, account, spaces[position].clone());
                    let ports = context.lanes.iter().sum();
                    links.push(Link::new(spec.instantiate(context)?, ports));
                    Ok(())
                }
                NodeKind::Sink(spec) => {
                    let sink = spec.open(SinkContext {
                        node: Arc::clone(&plan.nodes[node].name),
                        partition,
                        partitions: plan.nodes[node].partitions,
                        schema: Arc::clone(&plan.nodes[node].inputs[0]),
                        memory: account,
                        io: self.io(node, partition, arbiter.0),
                    })?;
                    tail = Some(Tail::Sink(SinkTail::new(sink, Arc::clone(&shared.nodes[position].1))));
                    Ok(())
                }
                NodeKind::Result => Ok(()),
            }));
            let at = || Place { node: plan.nodes[node].name.to_string(), partition, split: None };
            let error = match made {
                Ok(Ok(())) => continue,
                Ok(Err(cause)) => ExecutionError::Operator { at: at(), cause: Arc::new(cause) },
                Err(panic) => ExecutionError::Panic { at: at(), message: panic_message(&*panic) },
            };
            // Before the instances made so far are dropped: one that panics as it is must not hide the first error.
            self.core.fail(error.clone());
            return Err(error);
        }
        let tail = match tail {
            Some(tail) => tail,
            None => self.make_outputs(stage, partition, &waker).map_err(|cause| ExecutionError::Operator {
                at: Place { node: plan.stage_name(stage), partition, split: None },
                cause: Arc::new(cause),
            })?,
        };
        let head = head.unwrap_or_else(|| {
            let ports = plan.stages[stage].inputs.iter().flat_map(|&edge| {
                let count = plan.edges[edge].ports_per_receiver();
                (partition * count..(partition + 1) * count).map(move |port| (edge, port))
            });
            let (edges, receivers) = ports.map(|(edge, port)| (edge, self.ports[edge][port].receiver())).unzip();
            Head::Ports(Ports { receivers, edges, next: 0 })
        });
        let account = self.accounts[stage][partition].clone();
        // What it can be asked to free: the state of its operators, and what hazardous edges have queued.
        let mut reclaimable: Vec<_> = plan.stages[stage]
            .nodes
            .iter()
            .filter(|&&node| matches!(plan.nodes[node].kind, NodeKind::Operator(_)))
            .filter_map(|&node| self.instance_accounts[node].get(partition).cloned())
            .collect();
        reclaimable.append(&mut self.spooling[stage][partition]);
        let task = Task::new(TaskParts {
            shared,
            head,
            links,
            tail,
            order: plan.stages[stage].order,
            holder: account.pool().add_holder(waker.clone(), reclaimable),
            account,
            spill: self.spaces[arbiter.0].clone(),
            batch_bytes: plan.batch_bytes,
            batch_rows: plan.batch_rows,
            waker,
            clock: Arc::clone(self.clock),
        });
        Ok(Placed { task, flag, arbiter })
    }

    fn instance_account(&mut self, node: usize, partition: usize, worker: usize) -> Account {
        let name = instance_name(self.plan, node, partition);
        let account = self.workers[worker].admission.account(name, self.plan.instance_floor(node));
        self.instance_accounts[node].push(account.clone());
        account
    }

    fn operator_context(
        &self,
        node: usize,
        partition: usize,
        worker: usize,
        memory: Account,
        spill: SpillSpace,
    ) -> OperatorContext {
        let plan = self.plan;
        OperatorContext {
            node: Arc::clone(&plan.nodes[node].name),
            partition,
            partitions: plan.nodes[node].partitions,
            inputs: plan.nodes[node].inputs.clone(),
            lanes: plan.lanes(node),
            batch_bytes: plan.batch_bytes,
            batch_rows: plan.batch_rows,
            memory,
            spill,
            io: self.io(node, partition, worker),
        }
    }

    /// The I/O threads, for one instance.
    fn io(&self, node: usize, partition: usize, worker: usize) -> Io {
        let io = self.workers[worker].io.clone();
        let Some(recorder) = disk_recorder(self.core, worker) else { return io };
        let work = match NodeRole::of(&self.plan.nodes[node].kind) {
            NodeRole::Source => DiskWork::Source,
            NodeRole::Sink | NodeRole::Result => DiskWork::Sink,
            NodeRole::Operator => DiskWork::Operator,
        };
        let holder = instance_name(self.plan, node, partition).into();
        io.recorded(recorder, DiskUser { job: Some(self.core.id), holder, work })
    }

    fn make_source(&mut self, node: usize, partition: usize, worker: usize, memory: Account) -> Result<Head> {
        let plan = self.plan;
        let NodeKind::Source(spec) = &plan.nodes[node].kind else {
            return Err(crate::OperatorError::new("not a source"));
        };
        let scan = match &self.scans[node] {
            Some(scan) => Arc::clone(scan),
            None => {
                let context = ScanContext { batch_bytes: plan.batch_bytes, partitions: plan.nodes[node].partitions };
                let scan = spec.scan(context)?;
                self.scans[node] = Some(Arc::clone(&scan));
                scan
            }
        };
        let source = scan.open(SourceContext {
            node: Arc::clone(&plan.nodes[node].name),
            partition,
            batch_bytes: plan.batch_bytes,
            batch_rows: plan.batch_rows,
            memory,
            io: self.io(node, partition, worker),
        })?;
        Ok(Head::Source(Box::new(SourceHead { source, scan, split: None, split_ended: false, ended: false })))
    }

    fn make_outputs(&self, stage: usize, partition: usize, waker: &Waker) -> Result<Tail> {
        let plan = self.plan;
        let mut edges = Vec::new();
        for &index in &plan.stages[stage].outputs {
            let edge = &plan.edges[index];
            let forward = edge.sends_to_one();
            let ports = self.ports[index].iter().enumerate();
            let senders = ports
                .filter(|(target, _)| !forward || *target == partition)
                .map(|(target, port)| (target, port.sender(if forward { 0 } else { partition }, waker.clone())))
                .collect();
            edges.push(OutputEdge {
                edge: index,
                output: edge.output,
                ordered: edge.ordered,
                router: Router::new(&edge.exchange, &edge.schema, partition, edge.receivers)?,
                senders,
                forward,
            });
        }
        Ok(Tail::Outputs(Outputs::new(edges, plan.batch_rows, plan.batch_bytes)))
    }
}

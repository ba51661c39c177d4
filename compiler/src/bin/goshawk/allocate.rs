//! `goshawk allocate`: a sensitivity profile and costs in, bit widths out.
use crate::{
    Outcome,
    args::{ImportArgs, PreprocessArgs, QuantArgs, TargetArgs, WIDTHS, pin, widths},
    output,
    terminal::Terminal,
};
use goshawk_compiler::{
    Code, Error, Result,
    artifact::{write_all_atomic, write_atomic},
    data::{self, Dataset},
    driver::{
        allocate::{
            self, SOLVERS, Watched, budget,
            budget::Budget,
            frontier,
            report::{self, FrontierReport, Report},
            setup::{self, Choices},
            verify::{Bench, Measured},
        },
        bits_file,
        costs::{
            Costs,
            energy::Coefficients,
            measure,
            roofline::Roofline,
            table::{CostTable, Whole},
        },
        model::Model,
        sensitivity::file,
    },
};
use goshawk_passes::{
    allocate::{Effort, Problem, Solver},
    bits::{BitPlan, LayerBits},
    sensitivity::{Metric, Profile},
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Choose the bit widths of all layers: least sensitivity within budgets of size, latency, energy …
#[derive(clap::Args)]
pub struct Args {
    /// Sensitivity profile made by `goshawk sensitivity`
    profile: PathBuf,
    /// Bits file to write; with --frontier a folder
    #[arg(short, long, value_name = "FILE.toml|DIR")]
    output: PathBuf,
    /// The model: names the first and last layers, and is needed for --verify and arena budgets
    #[arg(long, value_name = "MODEL.onnx")]
    model: Option<PathBuf>,
    #[command(flatten)]
    choose: ChooseArgs,
    /// Sweep the budgets and write the whole frontier: so many steps for each swept metric
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "9")]
    frontier: Option<usize>,
    /// Metrics that --frontier sweeps
    #[arg(long, value_name = "METRIC,…", value_delimiter = ',', default_value = "size",
          value_parser = ["size", "bops", "energy", "latency"])]
    sweep: Vec<String>,
    /// Add this many naive allocations of each kind to the frontier: first layers wide, random
    #[arg(long, value_name = "N", default_value_t = 0)]
    naive: usize,
    /// Measure top-1 of the chosen allocations on --data with the integer network, and their latency
    #[arg(long)]
    verify: bool,
    /// Latency runs of --verify
    #[arg(long, value_name = "N", default_value_t = 50)]
    runs: usize,
    /// With --frontier --verify: also write the cheapest allocation that loses at most so many points to w8a8
    #[arg(long, value_name = "POINTS", requires = "verify", requires = "frontier")]
    max_drop: Option<f64>,
    /// Labelled data of --verify: .npy, .npz, idx, a folder of images, a PNG with --rows
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Its labels, if they are not beside it
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Use only this many samples of it, evenly spread
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    quant: QuantArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    import: ImportArgs,
}

/// What is allocated under which budgets: shared with `goshawk compile --budget`.
#[derive(clap::Args)]
#[command(next_help_heading = "Allocation")]
pub struct ChooseArgs {
    /// Limit: size=0.5 (share between cheapest and most generous widths), size=300KiB, latency=3.2ms, bops=2G,
    /// energy=40uJ, arena=64KiB, sensitivity=0.01; several hold together
    #[arg(long, value_name = "METRIC=AMOUNT", value_parser = |t: &str| t.parse::<Budget>())]
    budget: Vec<Budget>,
    /// What is made small: sensitivity, or a cost under a sensitivity budget
    #[arg(long, value_name = "METRIC", default_value = "sensitivity",
          value_parser = ["sensitivity", "size", "bops", "energy", "latency"])]
    minimize: String,
    /// Cost table made by `goshawk profile-costs`
    #[arg(long, value_name = "FILE.costs")]
    costs: Option<PathBuf>,
    /// Energy coefficients: TOML file (bit_operation_pj, accumulate_pj, weight_byte_pj, activation_byte_pj)
    #[arg(long, value_name = "FILE")]
    energy: Option<PathBuf>,
    /// ilp (branch and bound), dp (dynamic programme), pareto (HAWQ-V2), ranking (HAWQ-V1), greedy, haq
    #[arg(long, value_name = "NAME", default_value = "ilp", value_parser = SOLVERS)]
    solver: String,
    /// What the sensitivity is made of: trace, hutchinson, gauss-newton, channel-trace, eigenvalue, fisher, error, measured
    #[arg(long, value_name = "NAME", default_value = "trace", value_parser = |t: &str| t.parse::<Metric>().map_err(|e| e.to_string()))]
    metric: Metric,
    /// Widths that layers may get
    #[arg(long, value_name = "wXaY,…", value_delimiter = ',', default_value = WIDTHS, value_parser = widths)]
    widths: Vec<LayerBits>,
    /// Fix the widths of a layer
    #[arg(long, value_name = "LAYER=wXaY", value_parser = pin)]
    pin: Vec<(String, LayerBits)>,
    /// Let the first and last layers leave 8 bits
    #[arg(long)]
    free_ends: bool,
    /// Seconds that the search may take
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    time_limit: f64,
}

impl ChooseArgs {
    /// Whether `goshawk compile` is to allocate at all.
    pub fn is_asked(&self) -> bool {
        !self.budget.is_empty()
    }

    /// Whether a latency matters.
    pub fn needs_latency(&self) -> bool {
        self.minimize == "latency" || self.budget.iter().any(|b| b.metric == "latency")
    }

    pub fn costs_path(&self) -> Option<&Path> {
        self.costs.as_deref()
    }

    pub fn widths(&self) -> &[LayerBits] {
        &self.widths
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }
}

/// A problem with everything around it.
pub struct Task<'a> {
    pub problem: Problem,
    pub costs: Costs<'a>,
    pub arena: Option<f64>,
    pub isa: String,
    pub solver: Box<dyn Solver + 'a>,
    pub effort: Effort,
}

/// What tasks borrow from.
pub struct Inputs {
    pub profile: Profile,
    pub table: CostTable,
    pub facts: BTreeMap<String, goshawk_compiler::driver::costs::facts::LayerFacts>,
    pub watched: Watched,
}

impl Inputs {
    pub fn new(profile: Profile, table: CostTable, model: Option<&Model>) -> Result<Self> {
        let facts = match table.models.get(&profile.model_sha256) {
            Some(known) => known.clone(),
            None => setup::facts(&profile, model.map(|m| &m.graph))?,
        };
        Ok(Self { profile, table, facts, watched: Watched::default() })
    }
}

impl ChooseArgs {
    /// Builds the problem with its limits.
    pub fn task<'a>(&self, inputs: &'a Inputs, isa: Option<&str>) -> Result<Task<'a>> {
        let (isa, cpu) = match inputs.table.cpus.is_empty() {
            true => (String::new(), None),
            false => inputs.table.cpu(isa).map(|(isa, cpu)| (isa.to_owned(), Some(cpu)))?,
        };
        let energy = self.energy.as_deref().map(Coefficients::load).transpose()?.unwrap_or_default();
        let costs = Costs {
            facts: &inputs.facts,
            energy,
            cpu,
            blend: cpu.and_then(|c| c.models.get(&inputs.profile.model_sha256)),
            roofline: Roofline::new(cpu),
        };
        let choices = Choices {
            widths: self.widths.clone(),
            pins: self.pin.iter().cloned().collect(),
            free_ends: self.free_ends,
            metric: self.metric,
        };
        let mut problem = setup::problem(&inputs.profile, &costs, &choices)?;
        problem.objective = problem.metric(&self.minimize).unwrap_or(0);
        let mut arena = None;
        for b in &self.budget {
            match (b.metric.as_str(), b.amount) {
                ("arena", budget::Amount::Absolute(bytes)) => arena = Some(bytes),
                _ => {
                    let limit = budget::limit(&problem, b)?;
                    problem.limits.push(limit);
                }
            }
        }
        let solver = allocate::solver(&self.solver, &inputs.watched)
            .ok_or_else(|| Error::new(Code::BITS, format!("there is no solver {}", self.solver)))?;
        let time = Duration::try_from_secs_f64(self.time_limit)
            .map_err(|_| Error::new(Code::BITS, "--time-limit is no number of seconds"))?;
        Ok(Task { problem, costs, arena, isa, solver, effort: Effort { time, ..Effort::default() } })
    }
}

pub fn run(args: &Args, json: bool) -> Result<Outcome> {
    let preprocess = args.preprocess.spec()?;
    let target = args.target.target()?;
    let model = args.model.as_deref().map(|m| args.import.load(m)).transpose()?;
    let profile = file::load(&args.profile, model.as_ref().map(|m| m.sha256.as_str()))?;
    let table = args.choose.costs.as_deref().map(CostTable::load).transpose()?.unwrap_or_default();
    // One target in the table needs no choice.
    let isa = (table.cpus.len() > 1).then(|| measure::isa(&target));
    let inputs = Inputs::new(profile, table, model.as_ref())?;
    let task = args.choose.task(&inputs, isa.as_deref())?;
    let wants_model = args.verify || task.arena.is_some();
    let Some(model) = model.as_ref().filter(|_| wants_model) else {
        if wants_model {
            return Err(Error::new(Code::DATA, "--verify and arena budgets need the model")
                .help("add --model MODEL.onnx and --calib DATA or --ranges FILE"));
        }
        return finish(args, json, &inputs, &task, None, None);
    };
    let calibration = args.quant.calibration(model, &preprocess)?;
    let lowering = args.quant.lowering();
    let bench = Bench {
        model,
        calibration: &calibration,
        lowering: &lowering,
        target: &target,
        threads: args.quant.threads(),
    };
    let data = match (&args.data, args.verify) {
        (Some(path), true) => {
            let options = data::Options {
                preprocess: preprocess.clone(),
                labels: args.labels.clone(),
                samples: args.limit,
            };
            Some(Dataset::open(path, &model.inputs(), &options)?)
        }
        (None, true) => {
            return Err(Error::new(Code::DATA, "--verify needs labelled data").help("add --data PATH"));
        }
        _ => None,
    };
    let verify =
        |plans: &[(String, BitPlan)]| bench.measure(plans, data.as_ref(), Some(args.runs), &Terminal);
    finish(args, json, &inputs, &task, Some(&bench), args.verify.then_some(&verify))
}

/// Measures plans.
type Verify<'a> = &'a dyn Fn(&[(String, BitPlan)]) -> Result<Vec<Measured>>;

fn finish(
    args: &Args,
    json: bool,
    inputs: &Inputs,
    task: &Task<'_>,
    bench: Option<&Bench<'_>>,
    verify: Option<Verify<'_>>,
) -> Result<Outcome> {
    match args.frontier {
        Some(steps) => write_frontier(args, json, inputs, task, steps, verify),
        None => {
            let (plan, mut report) = solve(task, bench)?;
            if let Some(verify) = verify {
                report.verified = verify(&[("allocation".into(), plan.clone())])?.pop();
            }
            write_atomic(&args.output, bits_text(&plan, &report).as_bytes())?;
            output::print(json, &report, human)?;
            Ok(Outcome::Done)
        }
    }
}

/// Solves a task and checks the arena.
pub fn solve(task: &Task<'_>, bench: Option<&Bench<'_>>) -> Result<(BitPlan, Report)> {
    let problem = &task.problem;
    let solution = task.solver.solve(problem, &task.effort).map_err(allocate::failed)?;
    let plan = setup::plan(problem, &solution.choices);
    if let (Some(max), Some(bench)) = (task.arena, bench) {
        let cheapest = problem.levels().last().map_or_else(Vec::new, |l| problem.at_level(*l));
        bench.check_arena(&plan, &setup::plan(problem, &cheapest), max)?;
    }
    Ok((plan, report::solution(problem, &solution, &task.costs)))
}

/// The bits file with a comment that says where it comes from.
pub fn bits_text(plan: &BitPlan, r: &Report) -> String {
    let mut text = format!("# goshawk allocate: {}, {} {:.6e}", r.solver, r.minimised, r.objective);
    text.push_str(if r.proven { ", proven optimal\n" } else { "\n" });
    for b in &r.budgets {
        let _ = writeln!(text, "# {} {:.6e} of {:.6e} {}; {}", b.metric, b.used, b.max, b.unit, b.buys);
    }
    text.push_str(&bits_file::print(plan));
    text
}

fn write_frontier(
    args: &Args,
    json: bool,
    inputs: &Inputs,
    task: &Task<'_>,
    steps: usize,
    verify: Option<Verify<'_>>,
) -> Result<Outcome> {
    let problem = &task.problem;
    let swept: Vec<usize> = args.sweep.iter().filter_map(|m| problem.metric(m)).collect();
    let mut points = frontier::sweep(problem, task.solver.as_ref(), &swept, steps, &task.effort, &Terminal)?;
    if args.naive > 0 || args.verify {
        points.extend(frontier::naive(problem, args.naive, 1));
    }
    let plans: Vec<(String, BitPlan)> =
        points.iter().map(|p| (p.name.clone(), setup::plan(problem, &p.choices))).collect();
    let measured = verify.map(|v| v(&plans)).transpose()?;
    let of = |i: usize| measured.as_ref().and_then(|m| m.get(i));
    let chosen = args.max_drop.and_then(|drop| {
        let top1 = |i: usize| of(i).and_then(|m| m.top1_percent);
        let best = (0..points.len()).filter_map(top1).fold(f64::NEG_INFINITY, f64::max);
        let reference = points.iter().position(|p| p.name == "w8a8").and_then(top1).unwrap_or(best);
        let cost = |i: usize| swept.first().map_or(0.0, |m| points[i].totals[*m]);
        let holds = |i: &usize| top1(*i).is_some_and(|t| t >= reference - drop);
        (0..points.len())
            .filter(holds)
            .min_by(|a, b| cost(*a).total_cmp(&cost(*b)))
            .map(|i| points[i].name.clone())
    });
    let report = FrontierReport {
        model_sha256: inputs.profile.model_sha256.clone(),
        isa: task.isa.clone(),
        metric: args.choose.metric.to_string(),
        solver: task.solver.name().to_owned(),
        points: points
            .iter()
            .enumerate()
            .map(|(i, p)| report::point(problem, p, &task.costs, of(i)))
            .collect(),
        machine: measured.as_ref().and_then(|m| machine(&task.costs, &points, m)),
        chosen,
    };
    std::fs::create_dir_all(&args.output).map_err(|e| Error::file(&args.output, "create", &e))?;
    let at = |name: &str| args.output.join(name);
    let text = serde_json::to_string_pretty(&report)
        .map_err(|e| Error::new(Code::INTERNAL, "the frontier has no JSON form").because(e.to_string()))?;
    let mut files: Vec<(PathBuf, String)> = vec![
        (at("frontier.json"), text),
        (at("frontier.csv"), report::csv(&report)?),
        (at("frontier.html"), report::html(&report)),
    ];
    for (name, plan) in &plans {
        files.push((at(&format!("{name}.toml")), bits_file::print(plan)));
        if report.chosen.as_ref() == Some(name) {
            files.push((at("chosen.toml"), bits_file::print(plan)));
        }
    }
    write_all_atomic(&files)?;
    output::print(json, &report, human_frontier)?;
    Ok(Outcome::Done)
}

fn quantity(name: &str, value: f64) -> String {
    match name {
        "size" => format!("{:.1} kB", value / 1e3),
        "bops" => format!("{:.1} M", value / 1e6),
        "energy" => format!("{:.2} uJ", value * 1e6),
        "latency" => format!("{:.1} us", value * 1e6),
        _ => format!("{value:.4e}"),
    }
}

fn human(r: &Report) -> String {
    let row = |l: &report::LayerReport| {
        vec![
            l.name.clone(),
            l.weights.to_string(),
            l.activations.to_string(),
            l.bytes.to_string(),
            format!("{:.1}{}", l.latency_us, if l.measured { "" } else { " (roofline)" }),
        ]
    };
    let rows: Vec<_> = r.layers.iter().map(row).collect();
    let mut out = output::table(&["layer", "w", "a", "bytes", "us"], &rows);
    let proof = match r.proven {
        true => "proven optimal".to_owned(),
        false => format!("at most {:.2} % above the optimum", 100.0 * r.gap),
    };
    let _ = writeln!(
        out,
        "{}: {} {} ± {}, {proof}; {} nodes, {:.3} s",
        r.solver,
        r.minimised,
        quantity(&r.minimised, r.objective),
        quantity("sensitivity", r.sensitivity_error),
        r.nodes,
        r.seconds
    );
    for (name, q) in &r.totals {
        let _ = writeln!(out, "  {name} {}", quantity(name, q.value));
    }
    for b in &r.budgets {
        let (used, max) = (quantity(&b.metric, b.used), quantity(&b.metric, b.max));
        let _ = writeln!(out, "  budget {}: {used} of {max}; {}", b.metric, b.buys);
    }
    if let Some(m) = &r.verified {
        let _ = writeln!(
            out,
            "  measured: top-1 {:.2} %, {:.1} us, arena {} bytes",
            m.top1_percent.unwrap_or(f64::NAN),
            m.latency_us.unwrap_or(f64::NAN),
            m.arena_bytes
        );
    }
    out
}

/// How fast the machine is now: the median, over the uniform networks in the cost table, of the latency measured now over
/// that of then.
fn machine(costs: &Costs<'_>, points: &[frontier::Point], measured: &[Measured]) -> Option<f64> {
    let ratio = |w: &Whole| {
        let at = points.iter().position(|p| p.kind == "uniform" && p.name == w.bits)?;
        measured.get(at)?.latency_us.map(|now| now / w.measured_us)
    };
    let mut ratios: Vec<f64> = costs.blend?.wholes.iter().filter_map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied()
}

/// How far a measured latency is from the predicted one, where both are known.
fn measured_over_predicted(p: &report::PointReport) -> Option<f64> {
    let predicted = p.totals.get("latency")?.value;
    p.measured.as_ref()?.latency_us.filter(|_| predicted > 0.0).map(|m| m * 1e-6 / predicted)
}

fn human_frontier(r: &FrontierReport) -> String {
    let row = |p: &report::PointReport| {
        let value = |name: &str| p.totals.get(name).map_or(String::new(), |q| quantity(name, q.value));
        let m = p.measured.clone().unwrap_or_default();
        let binding: Vec<&str> = p.budgets.iter().filter(|b| b.binds).map(|b| b.metric.as_str()).collect();
        vec![
            if p.dominated { format!("{} *", p.name) } else { p.name.clone() },
            value("sensitivity"),
            value("size"),
            value("latency"),
            m.latency_us.map_or(String::new(), |v| format!("{v:.1} us")),
            m.top1_percent.map_or(String::new(), |v| format!("{v:.2} %")),
            binding.join(" "),
        ]
    };
    let rows: Vec<_> = r.points.iter().map(row).collect();
    let heading = ["point", "sensitivity", "size", "predicted", "measured", "top-1", "binding"];
    let mut out = output::table(&heading, &rows);
    let mut ratios: Vec<f64> = r.points.iter().filter_map(measured_over_predicted).collect();
    ratios.sort_by(f64::total_cmp);
    if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
        let _ = writeln!(
            out,
            "measured / predicted latency of {} networks: {least:.3} to {most:.3}, median {:.3}",
            ratios.len(),
            ratios[ratios.len() / 2]
        );
    }
    if let Some(machine) = r.machine {
        let _ = writeln!(
            out,
            "the uniform networks take {machine:.3} times what they took when the costs were measured"
        );
        if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
            let (least, most) = (least / machine, most / machine);
            let _ = writeln!(out, "at that speed measured / predicted is {least:.3} to {most:.3}");
        }
    }
    if let Some(chosen) = &r.chosen {
        let _ = writeln!(out, "cheapest within the accuracy target: {chosen}");
    }
    out
}

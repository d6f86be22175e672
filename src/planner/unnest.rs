//! Lists as rows and structs as columns. A list that is unnested several levels deep takes a node for each level; lists
//! that are unnested less deep wait for the last levels, as DataFusion defines it.

use aqueduct_operators::{Expression, Unnest};
use arrow::datatypes::SchemaRef;
use datafusion_expr::logical_plan::Unnest as UnnestPlan;

use super::{Flow, Planner};
use crate::error::Result;

/// A column on its way through the levels.
struct Slot {
    /// The column of the input.
    column: usize,
    /// Levels of lists to unnest.
    depth: usize,
    is_struct: bool,
}

impl Planner {
    pub(super) fn unnest(&mut self, plan: &UnnestPlan) -> Result<Flow> {
        let mut flow = self.plan(&plan.input)?;
        let hashed = flow.hashed.take();
        let slots = slots(plan);
        if !slots.iter().map(|slot| slot.column).eq(0..plan.input.schema().fields().len()) {
            // A list that is unnested to several depths is there once for each of them.
            let columns = slots.iter().map(|slot| -> (Expression, String) {
                let column = Self::column(&flow.schema, slot.column);
                (column, flow.schema.field(slot.column).name().clone())
            });
            let columns = columns.collect();
            flow = self.project(columns, flow)?;
        }
        let deepest = slots.iter().map(|slot| slot.depth).max().unwrap_or(0).max(1);
        for level in (1..=deepest).rev() {
            let of = |wanted: &dyn Fn(&Slot) -> bool| -> Vec<usize> {
                slots.iter().enumerate().filter(|(_, slot)| wanted(slot)).map(|(place, _)| place).collect()
            };
            let lists = of(&|slot| slot.depth >= level);
            let structs = of(&|slot| slot.is_struct && level == 1);
            let nulls = plan.options.null_handling;
            let unnest = Unnest::try_new(SchemaRef::clone(&flow.schema), lists, structs, nulls)?;
            let schema = SchemaRef::clone(unnest.schema());
            flow = Flow { schema, ..self.row_wise("unnest", unnest, flow) };
        }
        let schema = SchemaRef::clone(plan.schema.inner());
        // Only columns that are left as they are say where their rows are.
        let untouched = |column: &usize| {
            !plan.list_type_columns.iter().any(|(list, _)| list == column) && !plan.struct_type_columns.contains(column)
        };
        let sources: Vec<usize> =
            plan.dependency_indices.iter().map(|column| if untouched(column) { *column } else { usize::MAX }).collect();
        let hashed = hashed.and_then(|hashed| hashed.selected(&sources));
        Ok(Flow { schema, hashed, ..flow })
    }
}

/// The columns in the order of the output; a struct is one until its fields take its place.
fn slots(plan: &UnnestPlan) -> Vec<Slot> {
    let columns = 0..plan.input.schema().fields().len();
    let slots = columns.flat_map(|column| {
        let depths: Vec<usize> =
            plan.list_type_columns.iter().filter(|(list, _)| *list == column).map(|(_, list)| list.depth).collect();
        let is_struct = plan.struct_type_columns.contains(&column);
        let depths = if depths.is_empty() { vec![0] } else { depths };
        depths.into_iter().map(move |depth| Slot { column, depth, is_struct })
    });
    slots.collect()
}

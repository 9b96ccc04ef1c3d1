//! Text for people, one file per table or page. Pure: data and a [`Look`] in, text out.

pub(crate) mod amounts;
mod comparison;
mod experiment_page;
mod experiments;
mod groups;
mod ledger;
mod look;
mod machines;
mod metrics;
mod nodes;
mod outputs;
mod queues;
mod sheet;
mod tokens;
mod usage;
mod why;

pub(crate) use comparison::comparison;
pub(crate) use experiment_page::experiment_page;
pub(crate) use experiments::experiments;
pub(crate) use groups::{group_page, groups, stopped_group};
pub(crate) use ledger::{audit_report, ledger};
pub(crate) use look::Look;
pub(crate) use machines::machines;
pub(crate) use metrics::{metrics, metrics_csv, series, series_csv};
pub(crate) use nodes::nodes;
pub(crate) use outputs::outputs;
pub(crate) use queues::{queue_limits, queues};
pub(crate) use tokens::{caller, join_tokens, user_tokens};
pub(crate) use usage::{chart_columns, usage, usage_lines};
pub(crate) use why::why;

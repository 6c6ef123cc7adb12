//! `ztka policy schema`

use clap::Args;

#[derive(Args, Debug)]
#[command(after_help = "An editor with the YAML language server reads it by a first line in the policy file:\n  \
                        # yaml-language-server: $schema=policy.schema.json")]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        print!("{}", ztka_authz::tools::schema());
        Ok(())
    }
}

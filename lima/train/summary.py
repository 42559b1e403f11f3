"""What came of a run, in a few lines at its end."""

from lima import runs


def show(args, state, seconds):
    """Prints losses, what was written and what to do next. `state`: the Trainer's; `seconds`: that training took."""
    history = state.log_history
    losses = [row["loss"] for row in history if "loss" in row]
    held = [row["eval_loss"] for row in history if "eval_loss" in row]
    print(f"\ndone · {args.run_name} · {state.global_step} steps in {seconds / 60:.1f} min")
    if losses:
        print(f"  loss      {losses[0]:.3f} → {losses[-1]:.3f}")
    if held:
        print(
            f"  held-out  {held[0]:.3f} → {held[-1]:.3f} (may rise while answers improve; it never picks a checkpoint)"
        )
    kept = [folder.name for folder in runs.checkpoints(args.output_dir)]
    print(f"  wrote     {args.output_dir}: {', '.join(kept) or 'no checkpoint'}, metrics.jsonl, recipe.yaml")
    print(f"  next      make chat RUN={args.output_dir}")

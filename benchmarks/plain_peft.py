"""LoRA, DoRA or PiSSA with PEFT and the Trainer alone: what a user would write by hand, without hubinit."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments


def train_plainly(model_id, revision, texts, init, seed, output_dir, *, rank, alpha, steps, batch, accumulate, lr):
    """The loss of each optimiser step in float32 on the CPU.

    `texts` are (prompt, completion) pairs. `init` is "pissa", which PEFT starts itself, or the folder of a saved start.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_id, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(model_id, revision=revision, dtype=torch.float32)
    if init == "pissa":
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", init_lora_weights="pissa")
        model = get_peft_model(model, config)
    else:
        model = PeftModel.from_pretrained(model, init, is_trainable=True)
    rows = []
    for prompt, completion in texts:
        head = tokenizer(prompt)["input_ids"]
        ids = tokenizer(prompt + completion)["input_ids"] + [tokenizer.eos_token_id]
        rows.append({"input_ids": ids, "labels": [-100] * len(head) + ids[len(head) :]})
    quiet = {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(
        output_dir,
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        learning_rate=lr,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        seed=seed,
        **quiet,
    )
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

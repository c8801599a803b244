"""What the page of a run says, in English and in Chinese."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    # states of a run
    "finished": ("finished", "已完成"),
    "stopped": ("stopped", "已停止"),
    "running": ("running", "运行中"),
    "interrupted": ("interrupted", "已中断"),
    "empty": ("no event yet", "尚无记录"),
    # facts
    "time": ("time", "用时"),
    "parameters": ("parameters", "参数"),
    "seen": ("tokens seen", "已见词元"),
    "steps": ("steps", "步数"),
    "device": ("device", "设备"),
    "seed": ("seed", "随机种子"),
    "light": ("Light or dark", "浅色或深色"),
    # sections
    "results": ("Results", "结果"),
    "curves": ("Curves", "曲线"),
    "completions": ("What it writes", "它写出的文字"),
    "samples": ("Along the way", "训练途中"),
    "diversity": ("How varied the samples are", "样本有多丰富"),
    "choices": ("What was chosen for you, and why", "替你做的选择及理由"),
    "skips": ("Steps left out", "跳过的步"),
    "notes": ("Notes", "说明"),
    "next": ("What to type next", "接下来可以输入"),
    "details": ("Configuration and machine", "配置与机器"),
    # results
    "name": ("", ""),
    "loss": ("loss", "损失"),
    "perplexity": ("perplexity", "困惑度"),
    "word_perplexity": ("perplexity per word", "按词困惑度"),
    "bits_per_byte": ("bits per byte", "每字节比特数"),
    "tokens_per_second": ("tokens a second", "每秒词元"),
    "tokens": ("tokens", "词元"),
    "words": ("words", "词"),
    "bytes": ("bytes", "字节"),
    "context": ("context", "上下文"),
    "stride": ("stride", "步长"),
    "lower": (
        "On held-out text, lower is better. Percentages are against {baseline}.",
        "在留出文本上评测，越低越好。百分比是相对于 {baseline} 的差别。",
    ),
    "lower_alone": ("On held-out text, lower is better.", "在留出文本上评测，越低越好。"),
    "better": ("{percent} fewer bits per byte than {baseline}", "每字节比特数比 {baseline} 低 {percent}"),
    "worse": ("{percent} more bits per byte than {baseline}", "每字节比特数比 {baseline} 高 {percent}"),
    # curves
    "train_smooth": ("training, smoothed", "训练（平滑）"),
    "train_raw": ("training", "训练"),
    "validation": ("validation", "验证"),
    "step": ("step", "步"),
    "log": ("log scale", "对数刻度"),
    "lr": ("learning rate", "学习率"),
    "grad_norm": ("gradient norm", "梯度范数"),
    "rate": ("tokens a second", "每秒词元"),
    "no_curve": ("The first step has not been written yet.", "第一步尚未写入。"),
    "noscript": (
        "The curves need JavaScript; everything else is here.",
        "曲线需要 JavaScript；其余内容都在。",
    ),
    # samples
    "some": ("{shown} of {total} shown.", "共 {total} 个，显示 {shown} 个。"),
    "prompt_empty": ("(no prompt)", "（无提示）"),
    "distinct": ("different {n}-grams", "不同的 {n}-gram"),
    "distinct_1": ("different tokens", "不同的词元"),
    "repetition": ("repeated", "重复"),
    "diversity_says": (
        "Share of the n-grams in the samples that are different, and share that repeats what the sample already said.",
        "样本中互不相同的 n-gram 所占的比例，以及重复前文的比例。",
    ),
    "skips_says": (
        "A loss or gradient that was not finite, or far from what is usual, never reached the weights.",
        "非有限值或远离常态的损失与梯度从未写入权重。",
    ),
    "none_skipped": ("None: every batch was sound.", "没有：每个批次都正常。"),
    "rolled_back": ("weights back to {to}", "权重退回到 {to}"),
    # next commands
    "next_chat": ("Talk to it", "和它对话"),
    "next_generate": ("Let it continue a text", "让它续写"),
    "next_evaluate": ("Measure it on a text of yours", "在你自己的文本上评测"),
    "next_resume": ("Go on with this run", "继续这次训练"),
    "next_own": ("Train on your own text", "用你自己的文本训练"),
    "next_compare": ("See all runs side by side", "并排查看所有运行"),
    "copy": ("copy", "复制"),
    "lead": (
        "{family}, {parameters} parameters, trained on {data} in {time}.",
        "{family}，{parameters} 个参数，在 {data} 上训练，用时 {time}。",
    ),
}

"""Reporting checklists, filled in as far as a run can: TRIPOD+AI (Collins et al. 2024) and CLAIM (Tejani et al., 2024 update).

Topics are told in words of this project, not of the guidelines: keep the published checklists beside it. The last column names the
fact (see :mod:`scotoma.reporting.statements`) that answers an item; without one, or where the run does not know it, it stays open.
"""

from __future__ import annotations

from collections.abc import Mapping

from scotoma.reporting.cells import plain
from scotoma.reporting.statements import TO_FILL

SOURCES = {
    "TRIPOD+AI": "Collins GS et al., BMJ 2024;385:e078378: 27 items for studies that develop or evaluate a prediction model.",
    "CLAIM": "Tejani AS et al., Radiology: Artificial Intelligence 2024;6(4):e240300: 44 items for AI in medical imaging.",
}
ITEMS: tuple[tuple[str, str, str, str, str], ...] = (
    ("TRIPOD+AI", "Title and abstract", "1", "title: develops or evaluates a model, for whom, of what outcome", ""),
    ("TRIPOD+AI", "Title and abstract", "2", "abstract in the structure that the guideline has for abstracts", ""),
    ("TRIPOD+AI", "Introduction", "3a", "the clinical situation, why a model, which models exist", ""),
    ("TRIPOD+AI", "Introduction", "3b", "who it is for, where in the patient's way, who will use it", ""),
    ("TRIPOD+AI", "Introduction", "3c", "known differences in health between social groups", ""),
    ("TRIPOD+AI", "Introduction", "4", "aims, and whether it develops, evaluates or both", "aim"),
    ("TRIPOD+AI", "Methods", "5a", "where the data come from, why these, how representative", ""),
    ("TRIPOD+AI", "Methods", "5b", "from when to when they were collected", ""),
    ("TRIPOD+AI", "Methods", "6a", "setting: kind of care, number and place of centres", ""),
    ("TRIPOD+AI", "Methods", "6b", "who was eligible", ""),
    ("TRIPOD+AI", "Methods", "6c", "treatments received, and how they were handled", ""),
    ("TRIPOD+AI", "Methods", "7", "preparation and quality checks of the data, alike for all groups", "pixels"),
    ("TRIPOD+AI", "Methods", "8a", "the outcome: definition, time, how it was assessed", "outcome"),
    ("TRIPOD+AI", "Methods", "8b", "who assessed it, where judgement was needed", ""),
    ("TRIPOD+AI", "Methods", "8c", "whether assessors were blinded", ""),
    ("TRIPOD+AI", "Methods", "9a", "how predictors were chosen", "predictors"),
    ("TRIPOD+AI", "Methods", "9b", "definition of the predictors, how and when measured", "pixels"),
    ("TRIPOD+AI", "Methods", "9c", "who assessed predictors, where judgement was needed", "predictors"),
    ("TRIPOD+AI", "Methods", "10", "how the number of patients was arrived at, for training and for test", "size"),
    ("TRIPOD+AI", "Methods", "11", "how missing data were handled", "missing"),
    ("TRIPOD+AI", "Methods", "12a", "how the data were divided and used", "split"),
    ("TRIPOD+AI", "Methods", "12b", "how predictors entered the model (scaling, transformation)", "pixels"),
    ("TRIPOD+AI", "Methods", "12c", "kind of model, every step of building and tuning, internal validation", "training"),
    ("TRIPOD+AI", "Methods", "12d", "differences between clusters (hospitals, countries)", ""),
    ("TRIPOD+AI", "Methods", "12e", "measures and plots of performance", "measures"),
    ("TRIPOD+AI", "Methods", "12f", "updating of the model after evaluation, such as recalibration", "updating"),
    ("TRIPOD+AI", "Methods", "12g", "how predictions were computed for the evaluation", "prediction"),
    ("TRIPOD+AI", "Methods", "13", "what was done about rare classes, and about calibration afterwards", "imbalance"),
    ("TRIPOD+AI", "Methods", "14", "what was done for fairness, and why", "fairness"),
    ("TRIPOD+AI", "Methods", "15", "what the model gives out, and how thresholds were chosen", "thresholds"),
    ("TRIPOD+AI", "Methods", "16", "how training and test data differ in setting, eligibility, outcome", "external"),
    ("TRIPOD+AI", "Methods", "17", "ethical approval and consent", ""),
    ("TRIPOD+AI", "Open science", "18a", "funding and the funders' part", ""),
    ("TRIPOD+AI", "Open science", "18b", "conflicts of interest", ""),
    ("TRIPOD+AI", "Open science", "18c", "where the protocol can be read", ""),
    ("TRIPOD+AI", "Open science", "18d", "registration of the study", ""),
    ("TRIPOD+AI", "Open science", "18e", "whether the data can be had", ""),
    ("TRIPOD+AI", "Open science", "18f", "whether the code can be had", "code"),
    ("TRIPOD+AI", "Patients and the public", "19", "how patients and the public took part", ""),
    ("TRIPOD+AI", "Results", "20a", "how patients flowed through the study, with and without the outcome", "counts"),
    ("TRIPOD+AI", "Results", "20b", "who the patients were, by data source", ""),
    ("TRIPOD+AI", "Results", "20c", "test patients beside training patients", ""),
    ("TRIPOD+AI", "Results", "21", "patients and outcome events in each analysis", "counts"),
    ("TRIPOD+AI", "Results", "22", "the whole model, so that others can predict with it", "model"),
    ("TRIPOD+AI", "Results", "23a", "performance with intervals, in subgroups too", "performance"),
    ("TRIPOD+AI", "Results", "23b", "how performance differs between clusters", ""),
    ("TRIPOD+AI", "Results", "24", "what updating the model brought", "updating"),
    ("TRIPOD+AI", "Discussion", "25", "what the results mean, fairness included", ""),
    ("TRIPOD+AI", "Discussion", "26", "limits of the study", "limits"),
    ("TRIPOD+AI", "Discussion", "27a", "what to do with poor or missing input in use", ""),
    ("TRIPOD+AI", "Discussion", "27b", "what users must do and know", ""),
    ("TRIPOD+AI", "Discussion", "27c", "next steps, and where the model may be expected to hold", ""),
    ("CLAIM", "Title and abstract", "1", "title or abstract: states that AI is used, and which kind", "kind"),
    ("CLAIM", "Title and abstract", "2", "structured summary", ""),
    ("CLAIM", "Introduction", "3", "background, intended use and clinical role", ""),
    ("CLAIM", "Introduction", "4", "aims and hypotheses", "aim"),
    ("CLAIM", "Methods: design", "5", "prospective or retrospective", ""),
    ("CLAIM", "Methods: design", "6", "goal of the study", "aim"),
    ("CLAIM", "Methods: data", "7", "where the data come from", ""),
    ("CLAIM", "Methods: data", "8", "who and what was included and excluded", "counts"),
    ("CLAIM", "Methods: data", "9", "preprocessing", "pixels"),
    ("CLAIM", "Methods: data", "10", "subsets of the data that were used", "subsets"),
    ("CLAIM", "Methods: data", "11", "de-identification", "identity"),
    ("CLAIM", "Methods: data", "12", "missing data", "missing"),
    ("CLAIM", "Methods: data", "13", "how the images were acquired", ""),
    ("CLAIM", "Methods: reference standard", "14", "what counts as the truth", "outcome"),
    ("CLAIM", "Methods: reference standard", "15", "why that", ""),
    ("CLAIM", "Methods: reference standard", "16", "who annotated", ""),
    ("CLAIM", "Methods: reference standard", "17", "how the test set was annotated", ""),
    ("CLAIM", "Methods: reference standard", "18", "agreement between and within annotators", "annotators"),
    ("CLAIM", "Methods: partitions", "19", "how images came to training, validation and test", "split"),
    ("CLAIM", "Methods: partitions", "20", "what keeps these apart: patient, study, image", "split"),
    ("CLAIM", "Methods: testing", "21", "intended size of the test set", "size"),
    ("CLAIM", "Methods: model", "22", "the model in detail", "model"),
    ("CLAIM", "Methods: model", "23", "software", "software"),
    ("CLAIM", "Methods: model", "24", "weights that training began with", "start"),
    ("CLAIM", "Methods: training", "25", "training in detail", "training"),
    ("CLAIM", "Methods: training", "26", "how the final model was chosen", "choice"),
    ("CLAIM", "Methods: training", "27", "ensembles", "ensembles"),
    ("CLAIM", "Methods: evaluation", "28", "measures of performance", "measures"),
    ("CLAIM", "Methods: evaluation", "29", "uncertainty and significance", "uncertainty"),
    ("CLAIM", "Methods: evaluation", "30", "robustness", "robustness"),
    ("CLAIM", "Methods: evaluation", "31", "explanations", "explanations"),
    ("CLAIM", "Methods: evaluation", "32", "evaluation on data of the same source", "internal"),
    ("CLAIM", "Methods: evaluation", "33", "testing on data from elsewhere", "external"),
    ("CLAIM", "Methods: evaluation", "34", "registration as a clinical trial", ""),
    ("CLAIM", "Results: data", "35", "how many were included and excluded", "counts"),
    ("CLAIM", "Results: data", "36", "demography and clinical facts of each set", ""),
    ("CLAIM", "Results: performance", "37", "performance and its uncertainty", "performance"),
    ("CLAIM", "Results: performance", "38", "diagnostic performance and its precision", "decisions"),
    ("CLAIM", "Results: performance", "39", "what went wrong where the model erred", ""),
    ("CLAIM", "Discussion", "40", "limits", "limits"),
    ("CLAIM", "Discussion", "41", "what follows for practice", ""),
    ("CLAIM", "Other information", "42", "protocol or further technical details", "training"),
    ("CLAIM", "Other information", "43", "whether software, model and data can be had", "code"),
    ("CLAIM", "Other information", "44", "funding and the funders' part", ""),
)


def checklist(name: str, facts: Mapping[str, str]) -> str:
    """Both checklists as Markdown: a ticked line where the run answers an item, an open one where something is to be filled in."""
    lines = [
        f"# Reporting checklists: {plain(name)}",
        "",
        "What this run can answer is filled in; what it cannot know is marked TO FILL.",
    ]
    last = ("", "")
    for guideline, section, number, topic, key in ITEMS:
        if guideline != last[0]:
            lines += ["", f"## {guideline} (2024)", "", SOURCES[guideline]]
        if (guideline, section) != last:
            lines += ["", f"### {section}", ""]
        last = (guideline, section)
        answer = facts.get(key, "") or TO_FILL
        lines.append(f"- [{' ' if TO_FILL in answer else 'x'}] **{number}** ({topic}): {plain(answer)}")
    return "\n".join(lines) + "\n"
